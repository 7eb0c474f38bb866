"""FASTA: each record of a sequence file as a document of its letters, without headers and line breaks.

A record is a line that begins with ``>``, its header, and the lines of letters after it. Documents are called ``file/name``, where the name
is the first word of the header. Sequences are written once, in pieces, to an unlinked temporary file, so a genome does not have to fit in
memory.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence

from subquad.data.documents import Document, Spool

_PIECE = 1 << 24
_BREAKS = b"\r\n \t"
_LETTERS = string.ascii_letters.encode() + b"*-"  # what IUPAC allows: bases or residues, ambiguous ones, stops and gaps
_AS_IT_IS, _UPPER = bytes(range(256)), bytes(range(256)).upper()


def fasta_documents(documents: Sequence[Document], upper: bool = True) -> list[Document]:
    """The records of FASTA files, sorted by name; ``upper`` turns soft-masked (lower-case) letters into capitals.

    A record without letters is left out. ``ValueError`` names a file that does not begin with a header or holds other bytes, and one
    that has no letters at all.
    """
    spool = Spool()
    records = [record for document in documents for record in _records(document, _UPPER if upper else _AS_IT_IS, spool)]
    return sorted(records, key=lambda record: record.name)


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
        raise ValueError(f"{document.name} has no sequence: expected FASTA, lines of letters below a line that begins with '>'")
    return records


def _sequences(document: Document, case: bytes) -> Iterator[tuple[bytes | None, bytes]]:
    """Pairs of a header, None where a record continues, and the letters that follow."""
    header: bytearray | None = None  # the part of a header read so far, while inside one
    begun = False
    line_start = True
    for first in range(0, document.size, _PIECE):
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
                    header, begun = None, True
            else:
                end = piece.find(b"\n>", position) + 1 or len(piece)
                yield None, _letters(piece[position:end], document.name, begun, case)
                position, line_start = end, piece[end - 1 : end] == b"\n"


def _letters(lines: bytes, name: str, begun: bool, case: bytes) -> bytes:
    if not begun and lines.strip(_BREAKS):
        raise ValueError(f"{name} is not FASTA: expected it to begin with '>', got {lines.lstrip(_BREAKS)[:20]!r}; leave out data.format")
    letters = lines.translate(case, _BREAKS)
    if foreign := letters.translate(None, _LETTERS):
        raise ValueError(f"{name} is not FASTA: expected letters, * and - in its sequences, got {foreign[:1]!r}; leave out data.format")
    return letters


def _unused(header: bytes, names: set[str]) -> str:
    """The first word of a header, with a number where an earlier record of the file has the same."""
    word = (header.split() or [b"record"])[0].decode("utf-8", "backslashreplace")
    name, number = word, 1
    while name in names:
        number += 1
        name = f"{word}#{number}"
    names.add(name)
    return name
