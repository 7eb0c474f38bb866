"""Parts of a report as plain values: tables, bar charts, and passages with what each byte cost. Needs neither torch nor NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Place = tuple[int, int]  # row and column, the header not counted


@dataclass(frozen=True)
class Table:
    """Rows of texts, of as many cells as ``header`` has; the first cell of a row is its name. ``wrap`` is for cells of many words.

    ``note`` says how to read it, ``best`` are the places of the best cells, and ``hints`` says more of some, such as an error.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    best: frozenset[Place] = frozenset()
    hints: Mapping[Place, str] = field(default_factory=dict)
    wrap: bool = False


@dataclass(frozen=True)
class Bars:
    """A bar chart: the value at 1, 2, ..."""

    title: str
    x_label: str
    y_label: str
    values: Sequence[float]
    note: str = ""


@dataclass(frozen=True)
class Passage:
    """A piece of data with the ``bits`` that each byte cost.

    ``patch_size`` above 1 marks where patches begin; ``first`` is the place of the first byte inside its patch.
    """

    title: str
    data: bytes
    bits: Sequence[float]
    patch_size: int = 1
    first: int = 0
    note: str = ""


Section = Table | Bars | Passage
