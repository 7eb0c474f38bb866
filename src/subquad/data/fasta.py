"""FASTA: each record of a sequence file as a document of its letters, without headers and line breaks.

A record is a line that begins with ``>``, its header, and the lines of letters after it. Documents are called ``file/name``, where the name
is the first word of the header. Sequences are written once, in pieces, to an unlinked temporary file, so a genome does not have to fit in
memory.
"""

from __future__ import annotations

import codecs
import string
from collections.abc import Iterator, Sequence

from subquad.data.documents import Document, Spool
from subquad.data.utf8 import expect_utf8

_PIECE = 1 << 24
_BREAKS = b"\r\n \t"
_LETTERS = string.ascii_letters.encode() + b"*-"  # what IUPAC allows: bases or residues, ambiguous ones, stops and gaps
_AS_IT_LIES = "what is not FASTA is read with data.format=raw (--format raw)"
_AS_IT_IS, _UPPER = bytes(range(256)), bytes(range(256)).upper()


def fasta_documents(documents: Sequence[Document], upper: bool = True) -> list[Document]:
    """The records of FASTA files, sorted by name; ``upper`` turns soft-masked (lower-case) letters into capitals.

    A record without letters is left out. ``ValueError`` names a file that does not begin with a header, the record and line of a byte
    that is not a letter, and a file that has no letters at all.
    """
    spool = Spool()
    records = [record for document in documents for record in _records(document, _UPPER if upper else _AS_IT_IS, spool)]
    return sorted(records, key=lambda record: record.name)


def is_fasta(document: Document) -> bool:
    """Whether a document begins as FASTA does."""
    start = document.read(0, min(document.size, 4)).tobytes()
    return start.removeprefix(codecs.BOM_UTF8).startswith(b">")


def _records(document: Document, case: bytes, spool: Spool) -> list[Document]:
    starts: list[tuple[str, int]] = []
    names: set[str] = set()
    for header, letters in _sequences(document, case):
        if header is not None:
            starts.append((_unused(header, names), spool.size))
        spool.append(letters)
    ends = [*(start for _, start in starts[1:]), spool.size]
    places = [(name, start, end) for (name, start), end in zip(starts, ends, strict=True) if start < end] if starts else []
    records = [Document(f"{document.name}/{name}", end - start, spool, start) for name, start, end in places]
    if not records:
        raise ValueError(
            f"{document.name} has no sequence: expected FASTA, lines of letters below a line that begins with '>'; {_AS_IT_LIES}"
        )
    return records


def _sequences(document: Document, case: bytes) -> Iterator[tuple[bytes | None, bytes]]:
    """Pairs of a header, None where a record continues, and the letters that follow."""
    expect_utf8(document)
    header: bytearray | None = None  # the part of a header read so far, while inside one
    record: bytes | None = None  # the last header that was read
    line_start = True
    mark = len(codecs.BOM_UTF8)
    begin = mark if document.read(0, min(mark, document.size)).tobytes() == codecs.BOM_UTF8 else 0
    for first in range(begin, document.size, _PIECE):
        piece = document.read(first, min(first + _PIECE, document.size)).tobytes()
        position = 0
        while position < len(piece):
            if header is None and line_start and piece[position : position + 1] == b">":
                header, position = bytearray(), position + 1
            if header is not None:
                end = piece.find(b"\n", position)
                header += piece[position : end if end >= 0 else len(piece)]
                position, line_start = (end + 1 or len(piece)), end >= 0
                if line_start:
                    yield bytes(header), b""
                    record, header = bytes(header), None
            else:
                end = piece.find(b"\n>", position) + 1 or len(piece)
                yield None, _letters(document, first + position, piece[position:end], record, case)
                position, line_start = end, piece[end - 1 : end] == b"\n"


def _letters(document: Document, start: int, lines: bytes, record: bytes | None, case: bytes) -> bytes:
    """The letters of lines that begin at byte ``start``, below the header ``record``."""
    if record is None and lines.strip(_BREAKS):
        got = lines.lstrip(_BREAKS)[:20]
        raise ValueError(f"{document.name} is not FASTA: expected it to begin with '>', got {got!r}; {_AS_IT_LIES}")
    letters = lines.translate(case, _BREAKS)
    if foreign := letters.translate(None, _LETTERS)[:1]:
        line = 1 + document.read(0, start + 1 + lines.translate(case).index(foreign)).tobytes().count(b"\n")
        name = _word(record or b"")
        raise ValueError(
            f"{document.name}, line {line}: expected letters, * and - in the sequence of the record {name!r}, got {foreign!r}: correct it; "
            f"{_AS_IT_LIES}"
        )
    return letters


def _word(header: bytes) -> str:
    """The first word of a header."""
    return (header.split() or [b"record"])[0].decode("utf-8", "backslashreplace")


def _unused(header: bytes, names: set[str]) -> str:
    """The first word of a header, with a number where an earlier record of the file has the same."""
    word = name = _word(header)
    number = 1
    while name in names:
        number += 1
        name = f"{word}#{number}"
    names.add(name)
    return name
