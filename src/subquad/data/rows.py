"""The rows of a table: TSV, CSV, JSONL or Parquet, read from its beginning to its end without keeping it.

Columns are named by the header of a table, or by numbers from 0 if it has none. Bytes that are not UTF-8 are kept, except in JSON.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import model_validator

from subquad.config import Config
from subquad.data.documents import Document
from subquad.data.unpack import without_compression
from subquad.data.utf8 import expect_utf8
from subquad.parsing import parse_json, shortened

Table = Literal["tsv", "csv", "jsonl", "parquet"]
TABLES: tuple[Table, ...] = ("tsv", "csv", "jsonl", "parquet")

Cells: TypeAlias = dict[Any, Any]  # from the names of columns, or their numbers
Lines: TypeAlias = Iterator[tuple[int, Cells]]

_QUOTED = re.compile(r'"(?:[^"]|"")*("?)')
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BATCH_ROWS = 1024

csv.field_size_limit((1 << 31) - 1)  # a long document is one field; the limit is the process's, so it is set once and for all


class TableColumns(Config):
    """Where a table has what: by names in its first line, or by numbers, from 0 on, in a table without one.

    ``table`` None goes by the end of the file's name. ``COLUMNS`` are the fields that are columns.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ()

    table: Table | None = None

    @model_validator(mode="after")
    def _alike(self) -> TableColumns:
        if len({type(column) for name in self.COLUMNS if (column := getattr(self, name)) is not None}) > 1:
            raise ValueError(f"columns must be all names or all numbers from 0: change one of {', '.join(self.COLUMNS)}")
        return self

    @property
    def numbered(self) -> bool:
        """Whether the columns are numbers, so that the first line is data."""
        return isinstance(getattr(self, self.COLUMNS[0]), int)


class Place(NamedTuple):
    """Where a row stands, or a whole file where there is no ``line``."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, line {self.line}"

    @property
    def name(self) -> str:
        """The place as a name, ``file:line``."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


def table_of(name: str) -> Table | None:
    """What kind of table a file is by the end of its name, compressed or not; None for what is none."""
    suffix = os.path.splitext(without_compression(name))[1]
    return next((table for table in TABLES if suffix == f".{table}"), None) if suffix else None


def read_rows(document: Document, columns: TableColumns, key: str) -> Iterator[tuple[Place, Cells]]:
    """The rows of a table, each with the place where it stands.

    ``ValueError`` for what is not a table, which ``key`` could have said, and for a line that cannot be read.
    """
    table = columns.table or table_of(document.name)
    if table is None:
        raise ValueError(
            f"{document.name} is not a table by its name: expected .tsv, .csv, .jsonl or .parquet, or say which in {key}.table"
        )
    if table == "parquet":
        rows = _parquet_rows(document, columns)
    else:
        expect_utf8(document)
        with (
            document.open() as file,
            io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="" if table == "csv" else "\n") as text,
        ):
            if table == "jsonl":
                rows = _json_rows(text, document.name)
            else:
                rows = _rows(_tsv_lines(text) if table == "tsv" else _csv_lines(text, document.name), document.name, columns.numbered)
            yield from ((Place(document.name, line), row) for line, row in rows)
        return
    yield from ((Place(document.name, line), row) for line, row in rows)


def cell(row: Cells, column: str | int, where: Place, naming: str) -> str:
    """What a row has in a column; ``ValueError`` where that is nothing, with the setting that names another column."""
    if column not in row:
        columns = shortened(", ".join(map(repr, row)), 200)
        raise ValueError(
            f"{where}: expected a column {column!r}, got {columns}: name yours, as in {naming}, or by its number if there is no header"
        )
    value = row[column]
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        got = shortened(json.dumps(value, default=str), 200)
        raise ValueError(f"{where}: expected a text or a number in {column!r}, got {got}: correct or remove the line")
    return value if isinstance(value, str) else json.dumps(value)


def as_bytes(text: str) -> bytes:
    """A text of a table as the bytes that it was read from."""
    return text.encode("utf-8", "surrogateescape")


def _rows(lines: Iterable[tuple[int, list[str]]], name: str, numbered: bool) -> Lines:
    """Lines of cells as mappings from column names, or numbers, with their line numbers."""
    head: list[Any] | None = None
    for number, cells in lines:
        if head is None and not numbered:
            head = cells
            if twice := next((column for column in cells if cells.count(column) > 1), None):
                raise ValueError(f"{name}, line {number}: two columns are called {twice!r}: give them different names")
            continue
        if head is not None and len(cells) != len(head):
            raise ValueError(
                f"{name}, line {number}: expected {len(head)} columns as in its first line, got {len(cells)}: correct or remove the line"
            )
        yield number, dict(zip(head or range(len(cells)), cells, strict=True))


def _tsv_lines(text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """In a TSV quotes and lone carriage returns are letters like any other, which ``csv`` does not read so."""
    for number, line in enumerate(text, 1):
        if line := line.removesuffix("\n").removesuffix("\r"):
            yield number, line.split("\t")


def _csv_lines(text: Iterable[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers of their first lines."""
    read: list[str] = []  # since the last row

    def lines() -> Iterator[str]:
        for line in text:
            read.append(line)
            yield line

    reader, first = csv.reader(lines(), strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield first, cells
            first = reader.line_num + 1
            read.clear()
    except csv.Error as error:
        row = "".join(read)
        opened = next((match.start() for match in _QUOTED.finditer(row) if not match[1]), None)
        if opened is None:
            raise ValueError(f"{name}, line {first}: not valid CSV ({error}); correct it") from None
        line = first + row.count("\n", 0, opened)
        raise ValueError(
            f"{name}, line {line}: a quote opens here and never closes: close it, or double it if it is part of a text"
        ) from None


def _json_rows(text: Iterable[str], name: str) -> Lines:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: not valid JSON ({error}); correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number}: expected a JSON object of columns, got {line.strip()[:40]}")
        if _ESCAPED_SURROGATE.search(line):
            for column, value in row.items():
                if isinstance(value, str) and (half := _SURROGATE.search(value)):
                    raise ValueError(
                        f"{name}, line {number}: {column!r} holds \\u{ord(half[0]):04x}, half of a surrogate pair and not a character: "
                        "correct or remove the line"
                    )
        yield number, row


def _parquet_rows(document: Document, columns: TableColumns) -> Lines:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(
            f"{document.name} is a Parquet file, which needs the package pyarrow: pip install 'subquad[data]', or convert it to .jsonl"
        ) from None
    number = 0
    try:
        with document.open() as file:
            table = parquet.ParquetFile(file)
            names = list(table.schema_arrow.names)
            wanted = {column for name in columns.COLUMNS if (column := getattr(columns, name)) is not None}
            read = [name for name in names if name in wanted] if wanted <= set(names) else names
            for batch in table.iter_batches(_BATCH_ROWS, columns=read):
                for row in batch.to_pylist():
                    number += 1
                    plain = {
                        name: value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for name, value in row.items()
                    }
                    yield number, dict(enumerate(plain.values())) if columns.numbered else plain
    except (ArrowException, OSError) as error:
        raise ValueError(
            f"{document.name} cannot be read as Parquet after row {number} ({shortened(str(error), 200)}): write it again, or drop its "
            "suffix to use its bytes as they are"
        ) from None
