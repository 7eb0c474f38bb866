"""Numbers and texts as people read them: counts, times, and what cannot be seen in a text written out."""

from __future__ import annotations

NONE = "–"  # where nothing is known
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float | None, unit: str = "") -> str:
    """A count in three digits: ``3.41M``, ``164 kB``, ``12 B``; a dash for None."""
    if number is None:
        return NONE
    for size, prefix in PREFIXES:
        if number >= 0.9995 * size:
            scaled = number / size
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}{' ' if unit else ''}{prefix}{unit}"
    return f"{number:.3g} {unit}".strip()


def amount(number: int, noun: str) -> str:
    """A number of things: ``1 document``, ``1,200 documents``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in two units: ``12.3 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def capital(text: str) -> str:
    """``text`` with its first letter in upper case and the others as they are."""
    return text[:1].upper() + text[1:]


def visible(text: str, keep: str = "\n") -> str:
    r"""``text`` with what cannot be seen written out: ``\x00``, ``\u202e``, and ``\x80`` for an undecodable byte.

    Characters of ``keep`` and the space stay. The result always encodes as UTF-8 and is legal in XML.
    """
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how ``surrogateescape`` carries a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
