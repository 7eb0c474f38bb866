"""The triangular maps around a causal Monarch convolution, T and its inverse (``ops/causal_monarch.py``), position by position, exactly.

Position t = m1 b + m0 is in block row m1. With the strictly lower parts A' and C' of the factors, and x before T, y after it,

    s[m1, j0] = x[m1, j0] + sum over j1 < m1 of C'_j0[m1, j1] x[j1, j0],    y[m1, m0] = s[m1, m0] + sum over j0 < m0 of A'[m0, j0] s[m1, j0]

and the inverse solves these for s, then x: both read the x so far at every b-th position, and the s of the open block row. x is (B, T, D):
B batch, T positions, D channels. Cost of a position: at most b + h multiplications a channel, as many as ``to_powers`` spends, since T
multiplies every output by a row of each factor; the state holds the x so far, T D numbers a row, and b D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.causal_monarch import unit_lower
from subquad.ops.ragged import together
from subquad.state import State


@dataclass(frozen=True, eq=False)
class OnlineBasis:
    """The factors, shared by a state and its clones. Made by ``of``."""

    a: Tensor  # (b, b), with its ones
    c: Tensor  # (b, h, h), with its ones, h as small as max_len allows
    max_len: int

    @classmethod
    def of(cls, a: Tensor, c: Tensor, max_len: int) -> OnlineBasis:
        """The factors ``a`` (b, b) and ``c`` (b, h, h), of which only the part below the diagonals is read, for ``max_len`` positions."""
        h = -(-max_len // a.shape[0])
        if not 1 <= h <= c.shape[1]:
            raise ValueError(
                f"{max_len} positions do not fit a and c, which are for 1 to {c.shape[0] * c.shape[1]} positions (h b): change max_len"
            )
        return cls(unit_lower(a.detach()), unit_lower(c.detach()[:, :h, :h]), max_len)

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.a.nbytes + self.c.nbytes


@dataclass
class OnlineBasisState(State):
    """What one of the maps has seen: x as above, inputs of T and outputs of its inverse, and s of the open block row."""

    past: Tensor  # (B, h, b, D)
    row: Tensor  # (B, b, D)
    lengths: list[int]
    basis: OnlineBasis


def init_online_basis(basis: OnlineBasis, batch: int, dim: int) -> OnlineBasisState:
    """The state before the first position of ``batch`` sequences."""
    b, h = basis.c.shape[:2]
    return OnlineBasisState(basis.a.new_zeros(batch, h, b, dim), basis.a.new_zeros(batch, b, dim), [0] * batch, basis)


def prefill_online_basis(x: Tensor, state: OnlineBasisState, lengths: Sequence[int] | None = None, inverse: bool = False) -> Tensor:
    """The next n positions of T x, or of T^-1 x with ``inverse``, (B, n, D) -> (B, n, D) in the factors' type.

    Row b advances by ``lengths[b]`` (0 to n; default n); its outputs past that are meaningless and change nothing. Adjacent rows that
    are at the same offset run together. Raises ``ValueError`` when a row would outgrow the state.
    """
    b, n, starts = state.basis.a.shape[0], x.shape[1], state.lengths
    counts = [n] * len(starts) if lengths is None else list(lengths)
    ends = [start + count for start, count in zip(starts, counts, strict=True)]
    if max(ends, default=0) > state.basis.max_len:
        raise ValueError(f"the decoding state holds {state.basis.max_len} positions and is full: give init_state a larger max_len")
    x, y = x.to(state.past.dtype), torch.zeros_like(x, dtype=state.past.dtype)
    for rows, start, count in together(starts, counts):
        done = 0
        while done < count:
            m1, m0 = divmod(start + done, b)
            size = min(b - m0, count - done)
            part = slice(done, done + size)
            y[rows, part] = _within_row(x[rows, part], state.past[rows], state.row[rows], state.basis, m1, m0, inverse)
            done += size
    state.lengths = ends
    return y


def _within_row(x: Tensor, past: Tensor, row: Tensor, basis: OnlineBasis, m1: int, m0: int, inverse: bool) -> Tensor:
    """Positions of one block row from ``m0`` on, (B, n, D) -> (B, n, D)."""
    place = slice(m0, m0 + x.shape[1])
    a, c = basis.a[place], basis.c[place, m1, :m1]
    below = torch.einsum("jk,rkjd->rjd", c, past[:, :m1, place])
    if not inverse:
        past[:, m1, place] = x
        row[:, place] = x + below
        return a[:, : place.stop] @ row[:, : place.stop]
    s = x - a[:, :m0] @ row[:, :m0]
    row[:, place] = s if x.shape[1] == 1 else torch.linalg.solve_triangular(a[:, place], s, upper=False, unitriangular=True)
    y = row[:, place] - below
    past[:, m1, place] = y
    return y
