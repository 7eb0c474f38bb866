"""A passage coloured by loss: for every character the strength of its colour, its bits, and how it is shown."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from subquad.format import visible
from subquad.sections import Passage

LEVELS = 16  # strengths of the colour
FULL_BITS = 8.0  # the bits of a byte under a uniform distribution
LONGEST = 4096  # bytes on a page; more would make it slow to open


class Character(NamedTuple):
    """A character as a page shows it: the classes of its element, the tooltip, its face in the text, and what follows it."""

    classes: str
    hint: str
    face: str
    after: str = ""


def coloured(passage: Passage) -> list[Character]:
    """The first ``LONGEST`` bytes, one entry for a UTF-8 character, or for a byte that is part of none.

    Raises ``ValueError`` unless there is one number of bits for every byte.
    """
    if len(passage.bits) != len(passage.data):
        raise ValueError(f"a passage of {len(passage.data)} bytes came with {len(passage.bits)} values of bits: give one per byte")
    data = passage.data[:LONGEST]
    shown, units = (_hex, zip(range(len(data)), range(1, len(data) + 1), strict=True)) if is_binary(data) else (_shown, characters(data))
    return [_character(passage, start, stop, *shown(data[start:stop])) for start, stop in units]


def is_binary(data: bytes) -> bool:
    """Whether bytes are better shown as numbers: a quarter of them are neither readable characters nor white space."""
    units = [data[start:stop].decode("utf-8", "surrogateescape") for start, stop in characters(data)]
    return 4 * sum(not (unit.isprintable() or unit.isspace()) for unit in units) > len(units)


def characters(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each UTF-8 character, or CR LF, starts and stops; a byte that is not part of one is a unit by itself."""
    start = 0
    while start < len(data):
        stop = start + _length(data, start)
        yield start, stop
        start = stop


def _length(data: bytes, start: int) -> int:
    lead = data[start]
    if data[start : start + 2] == b"\r\n":
        return 2
    length = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    try:
        return length if len(data[start : start + length].decode("utf-8")) == 1 else 1
    except UnicodeDecodeError:
        return 1


def _character(passage: Passage, start: int, stop: int, name: str, face: str, after: str) -> Character:
    bits, size = [float(value) for value in passage.bits[start:stop]], passage.patch_size
    mean = sum(bits) / len(bits)
    share = min(max(mean / FULL_BITS, 0.0), 1.0) if math.isfinite(mean) else 1.0
    classes = [f"h{round(LEVELS * share)}"]
    places = [(passage.first + index) % size for index in range(start, stop)]
    if size > 1 and 0 in places:
        classes.append("edge" if places[0] == 0 else "within")
    if not after.startswith(" ") and face != passage.data[start:stop].decode("utf-8", "replace"):
        classes.append("code")
    words = " + ".join(f"{value:.2f}" for value in bits) + (f" = {sum(bits):.2f} bits" if len(bits) > 1 else " bits")
    place = f", byte {places[0] + 1} of {size}" if size > 1 else ""
    return Character(" ".join(classes), f"{name}: {words}{place}", face, after)


def _hex(raw: bytes) -> tuple[str, str, str]:
    """What ``_shown`` gives, of a byte among binary data."""
    number = f"{raw[0]:02x}"
    return f"0x{number} {chr(raw[0])}" if 0x20 < raw[0] < 0x7F else f"0x{number}", number, " "


def _shown(raw: bytes) -> tuple[str, str, str]:
    """The name of a character for the tooltip, its face in the text, and what follows it."""
    text = raw.decode("utf-8", "surrogateescape")
    if text in ("\n", "\r\n"):
        return "line break" if text == "\n" else "line break, CR LF", "↵", "\n"
    if text == "\t":
        return "tab", "⇥", "\t"
    if text == " ":
        return "space", " ", ""
    face = visible(text, keep="")
    if unicodedata.category(text).startswith("M"):
        face = f"◌{text}"  # a combining mark needs something to sit on
    return face, face, ""
