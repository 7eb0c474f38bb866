"""Both triangular maps position by position: equal to the maps at once whatever the split, and inverse to each other."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from subquad.ops.causal_monarch import causal_basis, from_powers, to_powers
from subquad.ops.online_monarch import OnlineBasis, OnlineBasisState, init_online_basis, prefill_online_basis

DIM = 3


def _factors(b: int, h: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return 0.4 * torch.randn(b, b, dtype=torch.float64), 0.4 * torch.randn(b, h, h, dtype=torch.float64)


def _state(a: Tensor, c: Tensor, length: int, batch: int = 2) -> OnlineBasisState:
    return init_online_basis(OnlineBasis.of(a, c, length), batch, DIM)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("b", "h", "length"), [(1, 5, 5), (5, 1, 4), (4, 3, 12), (3, 5, 11), (6, 4, 7)])
def test_any_split_equals_the_whole(b: int, h: int, length: int, inverse: bool) -> None:
    a, c = _factors(b, h)
    x = torch.randn(2, length, DIM, dtype=torch.float64)
    whole = (from_powers if inverse else to_powers)(x.mT, a, c).mT
    basis = causal_basis(a, c)[:length, :length]
    torch.testing.assert_close(whole, (basis.inverse() if inverse else basis) @ x, rtol=0, atol=1e-10)
    for split in range(length + 1):
        state = _state(a, c, length)
        parts = [prefill_online_basis(x[:, :split], state, inverse=inverse)]
        parts += [prefill_online_basis(one.unsqueeze(1), state, inverse=inverse) for one in x[:, split:].unbind(1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)
        state = _state(a, c, length)
        parts = [prefill_online_basis(piece, state, inverse=inverse) for piece in (x[:, :split], x[:, split:])]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_rows_advance_by_lengths_of_their_own_and_the_inverse_undoes_it(seed: int) -> None:
    chance, (a, c) = random.Random(seed), _factors(4, 5)
    x = torch.randn(3, 18, DIM, dtype=torch.float64)
    whole, there, back, at = to_powers(x.mT, a, c).mT, _state(a, c, 18, 3), _state(a, c, 18, 3), [0, 0, 0]
    while min(at) < 18:
        n = chance.choice((1, 2, 7))
        counts = [min(chance.randint(0, n), 18 - start) for start in at]
        piece = torch.full((3, n, DIM), torch.nan, dtype=torch.float64)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            piece[row, :count] = x[row, start : start + count]
        y = prefill_online_basis(piece, there, counts)
        again = prefill_online_basis(y, back, counts, inverse=True)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            torch.testing.assert_close(y[row, :count], whole[row, start : start + count], rtol=0, atol=1e-10)
            torch.testing.assert_close(again[row, :count], x[row, start : start + count], rtol=0, atol=1e-10)
        at = [start + count for start, count in zip(at, counts, strict=True)]


def test_room() -> None:
    a, c = _factors(4, 5)
    assert OnlineBasis.of(a, c, 9).c.shape == (4, 3, 3)
    with pytest.raises(ValueError, match="21 positions do not fit a and c, which are for 1 to 20"):
        OnlineBasis.of(a, c, 21)
    state = _state(a, c, 9)
    assert state.nbytes == 8 * (2 * 12 * DIM + 2 * 4 * DIM + 16 + 36)
    with pytest.raises(ValueError, match="holds 9 positions and is full"):
        prefill_online_basis(torch.zeros(2, 10, DIM), state)
