"""What an objective shows of a trained model, as plain values for a report and for results.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Table:
    """A table of text: ``rows`` of as many cells as ``header`` has; ``note`` says how to read it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


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
    """A piece of data with what each byte cost: ``bits`` (n,). ``patch_size`` above 1 marks where patches begin; ``first`` is the place of
    the first byte inside its patch."""

    title: str
    data: bytes
    bits: npt.NDArray[np.float32]
    patch_size: int = 1
    first: int = 0
    note: str = ""


Section = Table | Bars | Passage
