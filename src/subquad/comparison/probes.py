"""Probes: small questions that bits per byte do not answer, on what a tokenizer makes hard and bytes do not."""

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

WORDS = 200  # that a probe asks for, at most
BYTES_PER_WORD = 64  # of those scored: a quick version asks for fewer words
CONTEXT = 200  # bytes before a word, at least


def probe(model: CausalModel, cell: Cell, probes: Sequence[str], held_out: Sequence[Span]) -> dict[str, Any]:
    """The rows of each probe by its title; of the task "reverse", how many held-out words are spelled right."""
    largest = max(held_out, key=lambda span: span.size)
    text = span_text(largest, 0, min(largest.size, 1 << 17))
    words = max(1, min(WORDS, cell.spec.score_bytes // BYTES_PER_WORD))
    rows: dict[str, Any] = {}
    if "trailing-space" in probes and cell.spec.task is None:
        rows["prompts that end in a space"] = trailing_space(model, text, words)
    if cell.spec.task == "reverse":
        rows["words spelled backwards"] = spelled_backwards(model, text, words)
    return rows


def trailing_space(model: CausalModel, text: bytes, words: int) -> list[dict[str, Any]]:
    """The bits of " word" after a prompt cut before its space, and after a prompt cut after it (the bits of the space added).

    By the chain rule both are the same for a model of bytes. A tokenizer reads the second prompt as other tokens.
    """
    matches = [match for match in re.finditer(rb"(?<=[a-z])( )([a-z]{3,})", text) if match.start() > CONTEXT]
    matches = matches[:: max(1, len(matches) // words)][:words]
    before = after = 0.0
    for match in matches:
        start = text.rfind(b" ", 0, match.start() - CONTEXT) + 1
        prompt, (space, word) = text[start : match.start()], match.groups()
        before += conditional_bits(model, prompt, space + word)
        after += conditional_bits(model, prompt, space) + conditional_bits(model, prompt + space, word)
    count = max(len(matches), 1)
    return [
        {"prompt": "cut before the space", "words": len(matches), "bits a word": round(before / count, 3)},
        {"prompt": "cut after the space", "words": len(matches), "bits a word": round(after / count, 3)},
    ]


def spelled_backwards(model: CausalModel, text: bytes, count: int) -> list[dict[str, Any]]:
    """How many of ``count`` held-out words the model spells backwards without a mistake, always taking the likeliest byte or token."""
    lines = text.split(b"\n")[1:-1]
    words = list(dict.fromkeys(line.partition(b"=")[0] for line in lines))[:count]
    answers = api.generate(model, [b"\n" + word + b"=" for word in words], max_bytes=16, temperature=0.0, stop=b"\n")
    rows = []
    for length in sorted({len(word) for word in words}):
        of_length = [(word, answer) for word, answer in zip(words, answers, strict=True) if len(word) == length]
        right = sum(answer == word[::-1] for word, answer in of_length)
        rows.append({"prompt": f"{length} letters", "words": len(of_length), "right": f"{right / len(of_length):.0%}"})
    right = sum(answer == word[::-1] for word, answer in zip(words, answers, strict=True))
    return [*rows, {"prompt": "all", "words": len(words), "right": f"{right / max(len(words), 1):.0%}"}]
