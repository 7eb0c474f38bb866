"""Labelled texts: tables of a text and its label, or folders of classes, in parts for training, validation and test.

A split by fractions is stratified: each part has the same share of every class. Labels may be values to predict; then there are no classes,
and all texts are one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from subquad.data.documents import Document
from subquad.data.files import open_documents
from subquad.data.folders import in_folders
from subquad.data.rows import Cells, Place, TableColumns, as_bytes, cell, read_rows, table_of
from subquad.data.shuffle import Integers
from subquad.data.split import Fractions, draw_parts
from subquad.data.tables import TableData, read_parts, read_tables

MOST_CLASSES = 10_000  # more are an identifier or a number, not a class

_NAMING = "objective.columns.text=sentence"


class LabelColumns(TableColumns):
    """Where a table has its texts and labels. With ``text_pair`` a text is two columns, joined by ``separator``."""

    COLUMNS = ("text", "label", "text_pair")
    RENAMED = {"second": "text_pair", "joint": "separator"}

    text: str | int = "text"
    label: str | int = "label"
    text_pair: str | int | None = None
    separator: str = "\n"


@dataclass(frozen=True, order=True, slots=True)
class Example:
    """A text in bytes and its label, None where there is none; ``where`` it was read is not a part of its value."""

    text: bytes
    label: str | None
    where: Place = field(default=Place(""), compare=False)

    @property
    def fields(self) -> tuple[bytes, str | None]:
        """Its value."""
        return self.text, self.label


@dataclass(frozen=True)
class Labelled(TableData[Example]):
    """Labelled texts; ``classes`` are sorted where they were found in the training part, and none where labels are numbers."""

    classes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What data.json says of all tables, and the classes."""
        return {**super().record(), "classes": list(self.classes)}

    def summary(self, part: Sequence[Example]) -> dict[str, Any]:
        """The texts, their bytes, and how many are of each class, or the range of the numbers."""
        return {"texts": len(part), "bytes": sum(len(example.text) for example in part), "labels": self._counts(part)}

    def _counts(self, part: Sequence[Example]) -> dict[str, float]:
        if self.classes:
            counts = Counter(example.label for example in part)
            return {label: counts[label] for label in self.classes}
        numbers = [float(str(example.label)) for example in part]
        return {"least": min(numbers), "most": max(numbers)} if numbers else {}


def read_labelled(
    paths: Sequence[str],
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    columns: LabelColumns | None = None,
    fractions: Fractions = (0.9, 0.05, 0.05),
    seed: int = 0,
    classes: Sequence[str] = (),
    numbers: bool = False,
) -> Labelled:
    """Reads tables, or folders of classes; what is in ``valid`` and ``test`` is held out, and otherwise the fractions of ``paths``,
    without chosen parts.

    With files for ``valid`` and none for ``test`` all of ``paths`` is for training. ``numbers`` says that labels are numbers.
    ``ValueError`` names a file and line that cannot be read, a missing column, an empty file, and a label that is empty, not one of the
    classes, or not a number; a single class or more than ``MOST_CLASSES``, and files that are neither tables nor in folders.
    """
    read = partial(_examples, columns=columns or LabelColumns())
    draw = partial(_draw, stratified=not numbers)
    parts = read_parts(read, draw, paths, valid, test, fractions, seed)
    names = () if numbers else tuple(classes) or _classes(parts[0])
    labelled = Labelled(*parts, [str(path) for path in (*paths, *valid, *test)], names)
    for name, part in labelled.parts.items():
        _check_labels(name, part, names, numbers)
    if not labelled.train:
        raise ValueError(f"none of {sum(map(len, parts))} texts is left for training: give more data, or another split in data.fractions")
    if len(names) == 1 and not classes:
        raise ValueError(
            f"all {len(labelled.train)} texts for training have the label {names[0]!r}, expected two classes or more: give texts of other "
            "classes too, or name all classes in model.classes"
        )
    return labelled


def read_table(document: Document, columns: LabelColumns, labels: bool = True, naming: str = _NAMING) -> Iterator[Example]:
    """The examples of one file; without ``labels`` they may be missing, the whole column or one of them. ``naming`` shows how a column is
    named, for the error about one that is not there."""
    for where, row in read_rows(document, columns, "objective.columns"):
        texts = [cell(row, column, where, naming) for column in (columns.text, columns.text_pair) if column is not None]
        yield Example(as_bytes(columns.separator.join(texts)), _label(row, columns.label, where, labels, naming), where)


def _label(row: Cells, column: str | int, where: Place, needed: bool, naming: str) -> str | None:
    """The label of a row, None where it has none and none is needed. Raises ``ValueError`` for an empty one and for NaN."""
    if not needed and row.get(column) in (None, ""):
        return None
    label = cell(row, column, where, naming)
    if not label.strip() or label.strip().lower() == "nan":
        raise ValueError(f"{where}: the label in {column!r} is {label!r}, which is not a class: give one, or remove the line")
    return label


def _examples(paths: Sequence[str], columns: LabelColumns) -> list[Example]:
    documents = open_documents(paths)[0]
    others = [] if columns.table else [document for document in documents if table_of(document.name) is None]
    if len(others) == len(documents):
        return [Example(document.read().tobytes(), label, Place(document.name)) for document, label in in_folders(others)]
    if others:
        raise ValueError(f"{others[0].name} is not a table by its name, but other files are: give tables or folders of classes, not both")
    return read_tables(documents, partial(read_table, columns=columns), "texts and labels")


def _draw(examples: list[Example], fractions: Fractions, random: np.random.Generator, stratified: bool) -> Integers:
    """The part of each example; each part has the same share of every class."""
    classes: dict[str | None, list[int]] = {}
    for number, example in enumerate(examples):
        classes.setdefault(example.label if stratified else None, []).append(number)
    parts: Integers = np.zeros(len(examples), dtype=np.int64)
    for members in classes.values():
        parts[members] = draw_parts(len(members), fractions, random)
    return parts


def _classes(examples: Sequence[Example]) -> tuple[str, ...]:
    """All labels, sorted. Raises ``ValueError`` for so many that they are no classes."""
    names = {str(example.label) for example in examples}
    if len(names) > MOST_CLASSES:
        raise ValueError(
            f"the {len(examples):,} texts for training (of {examples[0].where.file}) have {len(names):,} different labels, such as "
            f"{min(names)!r}, expected classes, at most {MOST_CLASSES:,}: name the column of the labels in objective.columns.label, or set "
            "model.problem_type=regression for numbers"
        )
    return tuple(sorted(names))


def _check_labels(name: str, part: Sequence[Example], classes: Sequence[str], numbers: bool) -> None:
    known = frozenset(classes)
    for example in part:
        label, where = str(example.label), f"{example.where}: " if example.where.file else ""
        if numbers and not _is_number(label):
            raise ValueError(
                f"{where}a text of the {name} part has the label {label!r}, expected a number: correct it or leave out model.problem_type"
            )
        if not numbers and label not in known:
            names = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise ValueError(
                f"{where}a text of the {name} part has the label {label!r}, expected one of {names}: correct it or set model.classes"
            )


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False
