"""Labelled texts: tables of a text and its label, or folders of classes, in parts for training, validation and test.

A split by fractions is stratified: each part has the same share of every class. Labels may be values to predict; there are no classes then,
and all texts are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from subquad.data.documents import Document
from subquad.data.files import open_documents
from subquad.data.folders import in_folders
from subquad.data.shuffle import Integers
from subquad.data.split import Fractions, draw_parts
from subquad.data.tables import TableColumns, TableData, cell, read_parts, read_rows, read_tables, table_of

_NAMING = "objective.columns.text=sentence"


class LabelColumns(TableColumns):
    """Where a table has its texts and labels. With ``text_pair`` a text is two columns, joined by ``separator``."""

    COLUMNS = ("text", "label", "text_pair")
    RENAMED = {"second": "text_pair", "joint": "separator"}

    text: str | int = "text"
    label: str | int = "label"
    text_pair: str | int | None = None
    separator: str = "\n"


class Example(NamedTuple):
    """A text in bytes and its label, None where there is none."""

    text: bytes
    label: str | None


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
            return {label: sum(example.label == label for example in part) for label in self.classes}
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
    ``ValueError`` names a file and line that cannot be read, a missing column, an empty file, and a label that is not one of the classes,
    or not a number; a single class, and files that are neither tables nor in folders.
    """
    read = partial(_examples, columns=columns or LabelColumns())
    draw = partial(_draw, stratified=not numbers)
    parts = read_parts(read, draw, paths, valid, test, fractions, seed)
    names = () if numbers else tuple(classes) or tuple(sorted({str(example.label) for example in parts[0]}))
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
        missing = not labels and row.get(columns.label) is None
        label = None if missing else cell(row, columns.label, where, naming)
        yield Example(columns.separator.join(texts).encode("utf-8", "surrogateescape"), label)


def _examples(paths: Sequence[str], columns: LabelColumns) -> list[Example]:
    documents = open_documents(paths)[0]
    others = [] if columns.table else [document for document in documents if table_of(document.name) is None]
    if len(others) == len(documents):
        return [Example(document.read().tobytes(), label) for document, label in in_folders(others)]
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


def _check_labels(name: str, part: Sequence[Example], classes: Sequence[str], numbers: bool) -> None:
    for label in (str(example.label) for example in part):
        if numbers and not _is_number(label):
            raise ValueError(
                f"a text of the {name} part has the label {label!r}, expected a number: correct it or leave out model.problem_type"
            )
        if not numbers and label not in classes:
            names = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise ValueError(f"a text of the {name} part has the label {label!r}, expected one of {names}: correct it or set model.classes")


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False
