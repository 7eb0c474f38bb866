"""Linear maps in the memory layout that a CPU multiplies fastest; plain ones on other devices.

B batch, T positions, D channels in, C channels out, N rows of any kind, k blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.monarch import block_diagonal_multiply_columns

CACHED = 1 << 21  # this many numbers stay in a CPU's cache


def linear_to_positions_last(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, T, D) -> (B, C, T): positions last, as convolutions want them. One sequence needs no copy for that."""
    if x.shape[0] == 1:
        return torch.addmm(bias.unsqueeze(1), weight, x[0].mT).unsqueeze(0)
    return F.linear(x, weight, bias).mT.contiguous()


def linear_from_positions_last(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, D, T) -> (B, T, C)."""
    if _multiplies_rows(x):
        return F.linear(x.mT.contiguous(), weight, bias)
    if x.shape[0] == 1:
        return torch.addmm(bias, x[0].mT, weight.mT).unsqueeze(0)
    return F.linear(x.mT, weight, bias)


def block_diagonal_linear(x: Tensor, weight: Tensor) -> Tensor:
    """(N, k p) times the block-diagonal matrix of weight (k, q, p) -> (N, k q).

    The result is laid out column by column, and so read without a copy by the next such map.
    """
    if _multiplies_rows(x):
        parts = x.unflatten(1, (weight.shape[0], -1)).unbind(1)
        return torch.cat([F.linear(part, block) for part, block in zip(parts, weight, strict=True)], 1)
    return block_diagonal_multiply_columns(x.mT, weight).mT


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of each number of x (N, D), in the order of memory: the kernels for contiguous tensors are faster."""
    return function(x) if x.is_contiguous() or not x.mT.is_contiguous() else function(x.mT).mT


def in_cached_pieces(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """``function`` of each row of x (N, D), by itself: on a CPU, and where no backward pass needs all at once, of a few rows at a time,
    so that the ``width`` numbers that it makes of each stay in the cache."""
    size = max(1, CACHED // width)
    if torch.is_grad_enabled() or x.device.type != "cpu" or len(x) <= size:
        return function(x)
    return torch.cat([function(piece) for piece in x.split(size)])


def _multiplies_rows(x: Tensor) -> bool:
    """Whether products of ``x`` run in half precision on a CPU, which is up to 16 times slower there with columns than with whole rows."""
    if x.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype in (torch.bfloat16, torch.float16)
