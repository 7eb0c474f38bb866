"""The texts of tables as documents: each row of a table is one, its cell in a column. They are written once, to a temporary file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

from subquad.data.documents import Document, Spool
from subquad.data.rows import TABLES, Table, TableColumns, as_bytes, cell, read_rows, table_of

_NAMING = "data.column=NAME, or --text NAME of score (without the suffix of a table a file is its bytes)"


class TextColumn(TableColumns):
    """Where a table has its texts."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("text",)

    text: str | int = "text"


def text_documents(documents: Sequence[Document], column: str | int, tables: Collection[Table]) -> tuple[list[Document], int]:
    """The texts in ``column`` of files that are ``tables`` by their names, ``file:line`` each, and the other files as they are; and the
    number of empty texts, which are left out.

    ``ValueError`` names a file and line that cannot be read, or that has nothing in the column.
    """
    if column != "text" and not any(table_of(document.name) in tables for document in documents):
        raise ValueError(
            f"the column {column!r} is for tables, and {documents[0].name} is none (expected {', '.join(TABLES)}): leave it out"
        )
    spool, empty = Spool(), 0
    found: list[Document] = []
    for document in documents:
        if table_of(document.name) not in tables:
            found.append(document)
            continue
        for name, text in _texts(document, column):
            if text:
                found.append(Document(name, len(text), spool, spool.size))
                spool.append(text)
            else:
                empty += 1
    if not found:
        raise ValueError(f"expected texts in {documents[0].name}, got none in its column {column!r}: give data that is not empty")
    return found, empty


def _texts(document: Document, column: str | int) -> Iterator[tuple[str, bytes]]:
    for where, row in read_rows(document, TextColumn(text=column), "data.format"):
        yield where.name, as_bytes(cell(row, column, where, _NAMING))
