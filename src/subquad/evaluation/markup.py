"""Any text made safe to stand in HTML and SVG, and what cannot be seen in it made visible."""

from __future__ import annotations

import html


def visible(text: str, keep: str = "\n") -> str:
    r"""``text`` with what cannot be seen written out: ``\x00``, ``\u202e``, and ``\x80`` for an undecodable byte.

    Characters of ``keep`` and the space stay. The result always encodes as UTF-8 and is legal in XML.
    """
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def escape(text: object) -> str:
    """``str(text)`` for the inside of an element or a quoted attribute: visible, and with no character that is markup."""
    return html.escape(visible(str(text)))


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how ``surrogateescape`` carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
