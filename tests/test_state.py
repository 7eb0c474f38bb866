"""Decoding states: a clone goes its own way, restarted rows begin anew, and what is shared is shared and counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.state import State


@dataclass(frozen=True)
class Table:
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


@dataclass
class Inner(State):
    sums: Tensor
    lengths: list[int]


@dataclass
class Outer(State):
    inner: list[Inner]
    table: Table
    rate: float


def _state() -> Outer:
    return Outer([Inner(torch.zeros(3, 2), [0, 0, 0])], Table(torch.ones(4, dtype=torch.float64)), 0.5)


def test_a_clone_shares_only_what_is_immutable() -> None:
    state = _state()
    clone = state.clone()
    clone.inner[0].sums += 1
    clone.inner[0].lengths[1] = 7
    assert state.inner[0].sums.abs().max() == 0
    assert state.inner[0].lengths == [0, 0, 0]
    assert clone.table is state.table


def test_restarted_rows_stand_where_the_fresh_state_does() -> None:
    state = _state()
    table = state.table
    state.inner[0].sums += 1
    state.inner[0].lengths = [3, 4, 5]
    state.reset([True, False, True], _state())
    assert state.inner[0].sums[:, 0].tolist() == [0, 1, 0]
    assert state.inner[0].lengths == [0, 4, 0]
    assert state.table is table


def test_shared_values_count() -> None:
    assert _state().nbytes == 3 * 2 * 4 + 4 * 8
