"""Shares of data for training, validation and test: one rule for all kinds of data, and how drawn items are assigned to the parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from subquad.data.shuffle import Integers

Fractions: TypeAlias = tuple[float, float, float]
PARTS = ("train", "valid", "test")


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises ``ValueError`` for what are not the shares of train, valid and test."""
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] == 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"expected three fractions (train, valid, test) that add up to 1, train above 0, got {tuple(fractions)}")


def draw_parts(count: int, fractions: Fractions, random: np.random.Generator) -> Integers:
    """The part of each of ``count`` things as an index of ``PARTS``, (count,).

    Each part has its share of the sum of the fractions to the nearest whole number, the training part at least one thing.
    """
    total = sum(fractions)
    valid = min(round(count * fractions[1] / total), count - 1)
    test = min(round(count * fractions[2] / total), count - 1 - valid)
    return random.permutation(np.repeat([0, 1, 2], [count - valid - test, valid, test]))
