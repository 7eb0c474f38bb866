"""A passage coloured by surprise: every character on a ground that is the stronger the more bits the model paid for its bytes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from subquad.evaluation.markup import escape, visible

LEVELS = 16
FULL_BITS = 8.0  # what a uniform guess pays for a byte
LONGEST = 4096  # bytes on a page; more would make it slow to open

Numbers = Sequence[float] | npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Passage:
    """Bytes and what a model paid for each.

    ``bits`` (N,) holds the surprise of each of the N bytes of ``data``; ``first`` is the place of the first byte inside its patch of
    ``patch_size`` bytes (1: the model has no patches); ``title`` says where the passage is from.
    """

    data: bytes
    bits: Numbers
    patch_size: int = 1
    first: int = 0
    title: str = ""

    def __post_init__(self) -> None:
        if len(self.bits) != len(self.data):
            raise ValueError(f"a passage of {len(self.data)} bytes came with {len(self.bits)} bits: give one number for every byte")
        if self.patch_size < 1:
            raise ValueError(f"the patch size of a passage is at least 1, got {self.patch_size}: give 1 for a model without patches")


def passage_html(passage: Passage) -> str:
    """The passage as spans, one for a character (or for a byte that is part of none), each with its bits as a tooltip."""
    data, bits = passage.data[:LONGEST], [float(value) for value in passage.bits[:LONGEST]]
    spans = "".join(_span(passage, bits, start, stop) for start, stop in characters(data))
    cut = f'<p class="source">The first {LONGEST:,} of {len(passage.data):,} bytes.</p>' if len(passage.data) > LONGEST else ""
    title = f'<p class="source">{escape(passage.title)}</p>' if passage.title else ""
    return f'{title}<div class="passage" dir="ltr">{spans}</div>{cut}'


def passage_key(patches: bool) -> str:
    """What the colours and the marks of a passage mean."""
    steps = "".join(f'<i class="h{level}"></i>' for level in range(LEVELS + 1))
    marks = "<span>A thin line: a patch starts. A line below a character: a patch starts inside it.</span>" if patches else ""
    scale = f'<span>0</span><span class="ramp">{steps}</span><span>{FULL_BITS:g} bits a byte, or more.</span>'
    return f'<p class="key">{scale}{marks}</p>'


def passage_style() -> str:
    """The rules for the grounds; ``--heat`` is the page's colour for surprise."""
    return "".join(f".h{level}{{background:rgb(var(--heat)/{0.88 * level / LEVELS:.3f})}}" for level in range(1, LEVELS + 1))


def characters(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each UTF-8 character starts and stops; a byte that is part of none stands alone."""
    start = 0
    while start < len(data):
        stop = start + _length(data, start)
        yield start, stop
        start = stop


def _length(data: bytes, start: int) -> int:
    lead = data[start]
    length = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    try:
        return length if len(data[start : start + length].decode("utf-8")) == 1 else 1
    except UnicodeDecodeError:
        return 1


def _span(passage: Passage, bits: list[float], start: int, stop: int) -> str:
    paid, size = bits[start:stop], passage.patch_size
    mean = sum(paid) / len(paid)
    share = min(max(mean / FULL_BITS, 0.0), 1.0) if math.isfinite(mean) else 1.0
    classes = [f"h{round(LEVELS * share)}"]
    places = [(passage.first + index) % size for index in range(start, stop)]
    if size > 1 and 0 in places:
        classes.append("edge" if places[0] == 0 else "within")
    shown, after = _shown(passage.data[start:stop])
    if shown[1] != passage.data[start:stop].decode("utf-8", "replace"):
        classes.append("code")
    words = " + ".join(f"{value:.2f}" for value in paid) + (f" = {sum(paid):.2f} bits" if len(paid) > 1 else " bits")
    where = f", byte {places[0] + 1} of {size}" if size > 1 else ""
    return f'<span class="{" ".join(classes)}" title="{escape(shown[0])}: {words}{where}">{escape(shown[1])}</span>{after}'


def _shown(raw: bytes) -> tuple[tuple[str, str], str]:
    """The name of a character for the tooltip and its face in the text, and what follows its span."""
    text = raw.decode("utf-8", "surrogateescape")
    if text == "\n":
        return ("line break", "↵"), "\n"
    if text == "\t":
        return ("tab", "⇥"), "\t"
    if text == " ":
        return ("space", " "), ""
    face = visible(text, keep="")
    if unicodedata.category(text).startswith("M"):
        face = f"◌{text}"  # a combining mark needs something to sit on
    return (face, face), ""
