"""Text among bytes: where UTF-8 characters begin and end, and spans of documents as whole characters."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager

from subquad.data.documents import Document
from subquad.data.windows import Span


def expect_utf8(document: Document) -> None:
    """Raises ``ValueError`` for a document that begins like UTF-16."""
    start = document.read(0, min(document.size, 8))
    marked = start[:2].tobytes() in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if marked or (len(start) >= 4 and start.any() and not (start[::2].any() and start[1::2].any())):
        raise ValueError(f"{document.name} is UTF-16, expected UTF-8: convert it, as with iconv -f UTF-16 -t UTF-8")


def is_continuation(byte: int) -> bool:
    """Whether it is a byte of a character after its first."""
    return byte & 0xC0 == 0x80


def unfinished(data: bytes) -> int:
    """How many bytes at the end are the beginning of an incomplete character, 0 to 3."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-3:])
    return len(decoder.getstate()[0])


def as_text(data: bytes, offset: int = 0) -> str:
    """Bytes as UTF-8; ``UnicodeError`` says which byte is not, ``offset`` is that of the first."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnicodeError(
            f"byte {offset + error.start} is not UTF-8, but token models read text: use a byte model for such data"
        ) from None


def span_text(span: Span, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes start..stop-1 of a span as text: where a cut inside the document goes through a character, it moves to the nearest edge within.

    So at most 3 bytes at each end are left out, and count as not there. The document's own ends stay.
    """
    stop = span.size if stop is None else stop
    data = span.read(start, stop).tobytes()
    if span.start + start > 0:
        first = next((place for place, byte in enumerate(data[:3]) if not is_continuation(byte)), min(3, len(data)))
        data = data[first:]
    if span.start + stop < span.document.size:
        data = data[: len(data) - unfinished(data)]
    return data


@contextmanager
def naming(span: Span) -> Iterator[None]:
    """Puts the document's name before a sentence about its text."""
    try:
        yield
    except UnicodeError as error:
        raise ValueError(f"{span.document.name}: {error}") from None
