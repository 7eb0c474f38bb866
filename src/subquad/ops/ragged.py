"""Runs of positions that start at a different offset in every row of a batch.

Rows of a batch may be at different offsets while decoding. Offsets are plain integers on the host, so equal rows, by far the
most common case, need a slice instead of a gather, and nothing waits for a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor


def stand_together(starts: Sequence[int]) -> bool:
    """Whether all rows start at one place, as those of an empty batch do."""
    return len(set(starts)) <= 1


def run_index(starts: Sequence[int], count: int, device: torch.device) -> Tensor:
    """``starts[b] + 0 .. count - 1``: (count,) when all rows start together, else (B, count)."""
    run = torch.arange(count, device=device)
    if stand_together(starts):
        return run + (starts[0] if starts else 0)
    return torch.tensor(starts, device=device).unsqueeze(1) + run


def length_mask(lengths: Sequence[int] | Tensor, length: int, device: torch.device) -> Tensor:
    """(B, length) of bool: True at the first ``lengths[b]`` positions of row b."""
    return torch.arange(length, device=device) < torch.as_tensor(lengths, device=device).unsqueeze(1)


def take_rows(x: Tensor, starts: Sequence[int], count: int) -> Tensor:
    """(B, N, ...) -> (B, count, ...): row b holds ``x[b, starts[b] : starts[b] + count]``.

    Where rows differ, positions beyond N repeat the last entry; the caller ignores it.
    """
    if stand_together(starts):
        return x.narrow(1, starts[0] if starts else 0, count)
    index = run_index(starts, count, x.device).clamp(max=x.shape[1] - 1)
    return x[torch.arange(x.shape[0], device=x.device).unsqueeze(1), index]


def put_rows(x: Tensor, starts: Sequence[int], new: Tensor) -> None:
    """Writes ``new`` (B, n, ...) in place at ``x[b, starts[b] : starts[b] + n]``; positions beyond N are dropped."""
    size, count = x.shape[1], new.shape[1]
    if stand_together(starts):
        fits = min(count, size - starts[0]) if starts else 0
        if fits > 0:
            x.narrow(1, starts[0], fits).copy_(new[:, :fits])
        return
    index = run_index(starts, count, x.device)
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1).expand_as(index)
    inside = index < size
    x[rows[inside], index[inside]] = new[inside]


def together(starts: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[slice, int, int]]:
    """Runs of adjacent rows with the same start and count, (rows, start, count)."""
    first = 0
    for (start, count), run in groupby(zip(starts, counts, strict=True)):
        last = first + len(list(run))
        yield slice(first, last), start, count
        first = last
