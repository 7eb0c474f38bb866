"""Small questions that bits per byte do not answer: what a tokenizer makes hard and bytes do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from subquad import api
from subquad.comparison.grid import Cell
from subquad.data.utf8 import span_text
from subquad.data.windows import Span
from subquad.inference import conditional_bits
from subquad.models.base import CausalModel

WORDS, LINES, CONTEXT = 200, 200, 200


def probe(model: CausalModel, cell: Cell, probes: Sequence[str], held_out: Sequence[Span]) -> dict[str, Any]:
    """The answers to each question asked, and, on a task, how many held-out lines are answered right."""
    largest = max(held_out, key=lambda span: span.size)
    text = span_text(largest, 0, min(largest.size, 1 << 17))
    found: dict[str, Any] = {}
    if "trailing-space" in probes and cell.spec.task is None:
        found["prompts that end in a space"] = trailing_space(model, text)
    if cell.spec.task == "reverse":
        found["words spelled backwards"] = spelled_backwards(model, text)
    return found


def trailing_space(model: CausalModel, text: bytes) -> list[dict[str, Any]]:
    """What " word" costs after a prompt cut before its space, and after one cut behind it (the space's own bits added).

    By the chain rule both are the same for a model that sees bytes. A tokenizer reads the second prompt as other tokens.
    """
    places = [match.start() for match in re.finditer(rb"(?<=[a-z]) [a-z]{3,}", text) if match.start() > CONTEXT]
    places = places[:: max(1, len(places) // WORDS)][:WORDS]
    before = behind = 0.0
    for place in places:
        start = text.rfind(b" ", 0, place - CONTEXT) + 1
        prompt, word = text[start:place], re.match(rb" [a-z]+", text[place:])
        assert word is not None
        before += conditional_bits(model, prompt, word[0])
        behind += conditional_bits(model, prompt, b" ") + conditional_bits(model, prompt + b" ", word[0][1:])
    count = max(len(places), 1)
    return [
        {"prompt": "cut before the space", "words": len(places), "bits a word": round(before / count, 3)},
        {"prompt": "cut behind the space", "words": len(places), "bits a word": round(behind / count, 3)},
    ]


def spelled_backwards(model: CausalModel, text: bytes) -> list[dict[str, Any]]:
    """How many of held-out words the model spells backwards without a mistake, taking the likeliest byte or token each time."""
    words = [line.partition(b"=")[0] for line in text.split(b"\n")[1:-1]]
    words = list(dict.fromkeys(words))[:LINES]
    answers = api.generate(model, [b"\n" + word + b"=" for word in words], max_bytes=16, temperature=0.0, stop=b"\n")
    rows = []
    for length in sorted({len(word) for word in words}):
        of_length = [(word, answer) for word, answer in zip(words, answers, strict=True) if len(word) == length]
        right = sum(answer == word[::-1] for word, answer in of_length)
        rows.append({"prompt": f"{length} letters", "words": len(of_length), "right": f"{right / len(of_length):.0%}"})
    right = sum(answer == word[::-1] for word, answer in zip(words, answers, strict=True))
    return [*rows, {"prompt": "all", "words": len(words), "right": f"{right / max(len(words), 1):.0%}"}]
