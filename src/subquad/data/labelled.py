"""Labelled texts: tables (TSV, CSV, JSONL) of a text and its label, or folders of classes, split into train, valid and test.

A table's columns are named by its first line, or by number, from 0 on, where it has no such line. Bytes that are no UTF-8 stay what they
are. A split by fractions is stratified: each class gives its share to every part, drawn by the seed and the place in the data. Labels may
be numbers to estimate; there are no classes then, and all texts are one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import model_validator

from subquad.config import Config
from subquad.data.documents import Document
from subquad.data.files import open_documents
from subquad.data.folders import in_folders
from subquad.data.shuffle import keyed

Table = Literal["tsv", "csv", "jsonl"]
TABLES: tuple[Table, ...] = ("tsv", "csv", "jsonl")
_PACKED = (".gz", ".xz", ".bz2")
_NAMING = "data.columns.text=sentence"

Row: TypeAlias = dict[Any, Any]  # from the names of columns, or their numbers


class Columns(Config):
    """Where a table has its texts and labels: by names in its first line, or by numbers, from 0 on, in a table without one.

    With ``second`` a text is two columns, joined by ``joint``. ``table`` None goes by the end of the file's name.
    """

    text: str | int = "text"
    label: str | int = "label"
    second: str | int | None = None
    joint: str = "\n"
    table: Table | None = None

    @model_validator(mode="after")
    def _alike(self) -> Columns:
        check_alike({"text": self.text, "label": self.label, "second": self.second})
        return self

    @property
    def numbered(self) -> bool:
        """Whether the columns are numbers, so that the first line is data."""
        return isinstance(self.text, int)


class Example(NamedTuple):
    """A text in bytes and its label, None where there is none."""

    text: bytes
    label: str | None


@dataclass(frozen=True)
class Labelled:
    """Three lists of examples, the paths they came from, and the classes, sorted where they were found in the training part; none where
    labels are numbers."""

    train: list[Example]
    valid: list[Example]
    test: list[Example]
    classes: tuple[str, ...]
    paths: list[str]

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, over all parts."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in (self.train, self.valid, self.test):
            digest.update(f"{len(part)} ".encode())
            for text, label in part:
                digest.update(f"{len(text)} {label} ".encode("utf-8", "surrogateescape") + text)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What data.json says: paths, classes, fingerprint, and of each part the texts, their bytes and how many are of each class,
        or the range of the numbers."""
        return {"paths": self.paths, "classes": list(self.classes), "fingerprint": self.fingerprint, "parts": self._parts()}

    def _parts(self) -> dict[str, Any]:
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {
            name: {
                "texts": len(part),
                "bytes": sum(len(example.text) for example in part),
                "labels": self._counts(part),
            }
            for name, part in named.items()
        }

    def _counts(self, part: Sequence[Example]) -> dict[str, float]:
        if self.classes:
            return {label: sum(example.label == label for example in part) for label in self.classes}
        numbers = [float(str(example.label)) for example in part]
        return {"least": min(numbers), "most": max(numbers)} if numbers else {}


def table_of(name: str) -> Table | None:
    """What kind of table a file is by the end of its name, packed or not; None for what is none."""
    path = Path(name.lower())
    suffix = (path.with_suffix("") if path.suffix in _PACKED else path).suffix.lstrip(".")
    return next((table for table in TABLES if table == suffix), None)


def read_labelled(
    paths: Sequence[str],
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    columns: Columns | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    seed: int = 0,
    classes: Sequence[str] = (),
    numbers: bool = False,
) -> Labelled:
    """Reads tables, or folders of classes; what is in ``valid`` and ``test`` is held out, and otherwise the fractions of ``paths``,
    without chosen parts.

    With files for ``valid`` and none for ``test`` all of ``paths`` is for training. ``numbers`` says that labels are numbers.
    ``ValueError`` names a file and line that cannot be read, a missing column, an empty file, and a label that is none of the classes, or
    no number; a single class, and files that are neither tables nor in folders.
    """
    columns = columns or Columns()
    whole, held_out = _examples(paths, columns), {"valid": _examples(valid, columns), "test": _examples(test, columns)}
    parts = {"train": whole, **held_out}
    if not valid:
        shares = (fractions[0], fractions[1], 0.0 if test else fractions[2])
        parts |= {name: part for name, part in _drawn(whole, shares, seed, not numbers).items() if not (name == "test" and test)}
    found = () if numbers else tuple(classes) or tuple(sorted({str(example.label) for example in parts["train"]}))
    for name, part in parts.items():
        labels = [str(example.label) for example in part]
        if numbers and (stray := next((label for label in labels if not _is_number(label)), None)) is not None:
            raise ValueError(f"a text of the {name} part has the label {stray!r}, expected a number: correct it or leave out model.target")
        if not numbers and (stray := next((label for label in labels if label not in found), None)) is not None:
            known = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
            raise ValueError(f"a text of the {name} part has the label {stray!r}, expected one of {known}: correct it or set model.classes")
    if not parts["train"]:
        raise ValueError(f"no text of {len(whole)} is left for training: give more data, or another split in data.fractions")
    if len(found) == 1 and not classes:
        raise ValueError(
            f"all {len(parts['train'])} texts for training have the label {found[0]!r}, expected two classes or more: give texts of others "
            "too, or name all of them in model.classes"
        )
    return Labelled(parts["train"], parts["valid"], parts["test"], found, [str(path) for path in (*paths, *valid, *test)])


def read_table(document: Document, columns: Columns, labels: bool = True, naming: str = _NAMING) -> Iterator[Example]:
    """The examples of one file; without ``labels`` they may be missing, the whole column or one of them. ``naming`` shows how a column is
    named, for the error about one that is not there."""
    for where, row in read_rows(document, columns.table, columns.numbered, "data.columns"):
        parts = [cell(row, column, where, naming) for column in (columns.text, columns.second) if column is not None]
        missing = not labels and row.get(columns.label) is None
        label = None if missing else cell(row, columns.label, where, naming)
        yield Example(columns.joint.join(parts).encode("utf-8", "surrogateescape"), label)


def read_rows(document: Document, table: Table | None, numbered: bool, key: str) -> Iterator[tuple[str, Row]]:
    """The lines of a table, each with the words that say where it stands; ``table`` None goes by the document's name.

    ``ValueError`` for what is no table, which ``key`` could have said, and for a line that cannot be read.
    """
    table = table or table_of(document.name)
    if table is None:
        raise ValueError(f"{document.name} is no table by its name: expected .tsv, .csv or .jsonl, or say which in {key}.table")
    text = document.read().tobytes().decode("utf-8-sig", "surrogateescape")
    rows = _objects(text, document.name) if table == "jsonl" else _rows(text, table, document.name, numbered)
    return ((f"{document.name}, line {line}", row) for line, row in rows)


def cell(row: Row, column: str | int, where: str, naming: str) -> str:
    """What a line has in a column; ``ValueError`` where that is nothing, with the setting that names another column."""
    if column not in row:
        known = ", ".join(map(repr, row))
        raise ValueError(f"{where}: expected a column {column!r}, got {known}: name yours, as in {naming}")
    value = row[column]
    if not isinstance(value, str | int | float):
        raise ValueError(f"{where}: expected a text or a number in {column!r}, got {json.dumps(value)}: correct or remove the line")
    return value if isinstance(value, str) else json.dumps(value)


def _examples(paths: Sequence[str], columns: Columns) -> list[Example]:
    documents = open_documents(paths)[0] if paths else []
    others = [] if columns.table else [document for document in documents if table_of(document.name) is None]
    if len(others) == len(documents):
        return [Example(document.read().tobytes(), label) for document, label in in_folders(others)]
    if others:
        raise ValueError(f"{others[0].name} is no table by its name, and beside it are tables: give tables or folders of classes, not both")
    found = []
    for document in documents:
        found += (examples := list(read_table(document, columns)))
        if not examples:
            raise ValueError(f"{document.name} has no line of data below its first: give one with texts and labels")
    return found


def _rows(text: str, table: Table, name: str, numbered: bool) -> Iterator[tuple[int, Row]]:
    """Lines of a table as mappings from column names, or numbers, with their line numbers."""
    head: list[Any] | None = None
    for number, cells in _tabbed(text) if table == "tsv" else _quoted(text, name):
        if head is None and not numbered:
            head = cells
            if twice := next((column for column in cells if cells.count(column) > 1), None):
                raise ValueError(f"{name}, line {number}: two columns are called {twice!r}: give each a name of its own")
            continue
        if head is not None and len(cells) != len(head):
            raise ValueError(
                f"{name}, line {number}: expected {len(head)} columns as in its first line, got {len(cells)}: correct or remove the line"
            )
        yield number, dict(zip(head or range(len(cells)), cells, strict=True))


def _tabbed(text: str) -> Iterator[tuple[int, list[str]]]:
    """TSV: in it quotes are letters like any other."""
    for number, line in enumerate(text.split("\n"), 1):
        if line := line.removesuffix("\r"):
            yield number, line.split("\t")


def _quoted(text: str, name: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(max(len(text), 1))  # a long document is one field
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: no valid CSV ({error}); correct it") from None
    finally:
        csv.field_size_limit(limit)


def _objects(text: str, name: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: no valid JSON ({error}); correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number}: expected a JSON object of columns, got {line.strip()[:40]}")
        yield number, row


def check_alike(columns: Mapping[str, str | int | None]) -> None:
    """Raises ``ValueError`` for columns of which some are named and some numbered."""
    if len({type(column) for column in columns.values() if column is not None}) > 1:
        raise ValueError(f"columns must be all names or all numbers: change {', '.join(columns)}")


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Raises ``ValueError`` for shares of train, valid and test that cannot be."""
    if min(fractions) < 0 or fractions[0] == 0 or sum(fractions) > 1 + 1e-6:
        raise ValueError(f"expected three fractions (train, valid, test) of at most 1 in all, train above 0, got {fractions}")


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _drawn(examples: list[Example], fractions: tuple[float, float, float], seed: int, stratified: bool = True) -> dict[str, list[Example]]:
    """Parts in the data's own order, of each class its share to the nearest whole number, at least one in the training part."""
    check_fractions(fractions)
    total = sum(fractions)
    places: dict[str | None, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.label if stratified else None, []).append(place)
    words = keyed(seed, np.arange(len(examples)))
    part_of = np.zeros(len(examples), dtype=np.int64)
    for members in places.values():
        members.sort(key=lambda place: (int(words[place]), place))
        first = min(round(len(members) * fractions[1] / total), len(members) - 1)
        second = min(first + round(len(members) * fractions[2] / total), len(members) - 1)
        part_of[members[:first]], part_of[members[first:second]] = 1, 2
    split: dict[str, list[Example]] = {"train": [], "valid": [], "test": []}
    for part, example in zip(part_of.tolist(), examples, strict=True):
        split[("train", "valid", "test")[part]].append(example)
    return split
