"""Tables of texts (TSV, CSV, JSONL): their rows, and examples made of them in three parts.

The columns of a table are named by its header, or by numbers from 0 if it has none. Bytes that are not UTF-8 are kept.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import model_validator

from subquad.config import Config
from subquad.data.documents import Document
from subquad.data.shuffle import Integers, generator
from subquad.data.split import PARTS, Fractions, check_fractions
from subquad.parsing import parse_json

Table = Literal["tsv", "csv", "jsonl"]
TABLES: tuple[Table, ...] = ("tsv", "csv", "jsonl")
_COMPRESSED = (".gz", ".xz", ".bz2")

Row: TypeAlias = dict[Any, Any]  # from the names of columns, or their numbers
E = TypeVar("E", bound=tuple[bytes | str | None, ...])

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
            raise ValueError(f"columns must be all names or all numbers: change {', '.join(self.COLUMNS)}")
        return self

    @property
    def numbered(self) -> bool:
        """Whether the columns are numbers, so that the first line is data."""
        return isinstance(getattr(self, self.COLUMNS[0]), int)


@dataclass(frozen=True)
class TableData(ABC, Generic[E]):
    """Three lists of examples and the paths they came from."""

    train: list[E]
    valid: list[E]
    test: list[E]
    paths: list[str]

    @property
    def parts(self) -> dict[str, list[E]]:
        """The lists by name."""
        return dict(zip(PARTS, (self.train, self.valid, self.test), strict=True))

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, over all parts."""
        digest = hashlib.sha256()
        for part in self.parts.values():
            digest.update(f"{len(part)} ".encode())
            for example in part:
                for field in example:
                    content = field.encode("utf-8", "surrogateescape") if isinstance(field, str) else field
                    digest.update(b"- " if content is None else f"{len(content)} ".encode() + content)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What data.json says: paths, fingerprint, and of each part what ``summary`` counts."""
        parts = {name: self.summary(part) for name, part in self.parts.items()}
        return {"paths": self.paths, "fingerprint": self.fingerprint, "parts": parts}

    @abstractmethod
    def summary(self, part: Sequence[E]) -> dict[str, Any]:
        """What there is in a part."""


def read_parts(
    read: Callable[[Sequence[str]], list[E]],
    draw: Callable[[list[E], Fractions, np.random.Generator], Integers],
    paths: Sequence[str],
    valid: Sequence[str],
    test: Sequence[str],
    fractions: Fractions,
    seed: int,
) -> tuple[list[E], list[E], list[E]]:
    """The examples of the training part, of the validation part and of the test part, each in the order of its data.

    What is in ``valid`` and ``test`` is held out. Without ``valid`` the fractions of ``paths`` are, and ``draw`` says of each example its
    part, as an index of ``PARTS``. Raises ``ValueError`` for fractions that cannot be.
    """
    check_fractions(fractions)
    whole, held_out, tested = (read(part) if part else [] for part in (paths, valid, test))
    if valid:
        return whole, held_out, tested
    shares = (fractions[0], fractions[1], 0.0 if test else fractions[2])
    drawn: tuple[list[E], list[E], list[E]] = ([], [], [])
    if whole:
        for example, part in zip(whole, draw(whole, shares, generator(seed, "split")).tolist(), strict=True):
            drawn[part].append(example)
    return drawn[0], drawn[1], tested if test else drawn[2]


def read_tables(documents: Sequence[Document], read: Callable[[Document], Iterable[E]], content: str) -> list[E]:
    """The examples of all tables. Raises ``ValueError`` for a table without any; ``content`` says what it should hold."""
    examples: list[E] = []
    for document in documents:
        before = len(examples)
        examples.extend(read(document))
        if len(examples) == before:
            raise ValueError(f"{document.name} has no line of data below its header: add lines with {content}")
    return examples


def table_of(name: str) -> Table | None:
    """What kind of table a file is by the end of its name, compressed or not; None for what is none."""
    path = Path(name.lower())
    suffix = (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix.lstrip(".")
    return next((table for table in TABLES if table == suffix), None)


def read_rows(document: Document, columns: TableColumns, key: str) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with the words that say where it stands.

    ``ValueError`` for what is not a table, which ``key`` could have said, and for a line that cannot be read.
    """
    table = columns.table or table_of(document.name)
    if table is None:
        raise ValueError(f"{document.name} is not a table by its name: expected .tsv, .csv or .jsonl, or say which in {key}.table")
    text = document.read().tobytes().decode("utf-8-sig", "surrogateescape")
    if table == "jsonl":
        rows = _json_rows(text, document.name)
    else:
        rows = _rows(_tsv_lines(text) if table == "tsv" else _csv_lines(text, document.name), document.name, columns.numbered)
    return ((f"{document.name}, line {line}", row) for line, row in rows)


def cell(row: Row, column: str | int, where: str, naming: str) -> str:
    """What a row has in a column; ``ValueError`` where that is nothing, with the setting that names another column."""
    if column not in row:
        columns = ", ".join(map(repr, row))
        raise ValueError(
            f"{where}: expected a column {column!r}, got {columns}: name yours, as in {naming}, or by its number if there is no header"
        )
    value = row[column]
    if not isinstance(value, str | int | float):
        raise ValueError(f"{where}: expected a text or a number in {column!r}, got {json.dumps(value)}: correct or remove the line")
    return value if isinstance(value, str) else json.dumps(value)


def _rows(lines: Iterable[tuple[int, list[str]]], name: str, numbered: bool) -> Iterator[tuple[int, Row]]:
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


def _tsv_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """In a TSV quotes and lone carriage returns are letters like any other, which ``csv`` does not read so."""
    for number, line in enumerate(text.split("\n"), 1):
        if line := line.removesuffix("\r"):
            yield number, line.split("\t")


def _csv_lines(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: not valid CSV ({error}); correct it") from None


def _json_rows(text: str, name: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: not valid JSON ({error}); correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number}: expected a JSON object of columns, got {line.strip()[:40]}")
        yield number, row
