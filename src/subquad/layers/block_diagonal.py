"""Block-diagonal linear maps, Monarch matrices of order 1: channels in groups, each with a small dense matrix of its own.

    y[b] = W[b] x[b] + bias[b],   b < blocks;   parameters and FLOPs are those of a dense map divided by ``blocks``

Where ``blocks`` does not divide a width, the input is padded with zeros and the output cut, as in M2-BERT (arXiv 2310.12109).
``shuffle`` mixes the channels before: seen as a table of ``blocks`` rows they are transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.layers.base import OptimizerHint
from subquad.ops.autocast import wants_rows
from subquad.ops.monarch import block_diagonal_dense, block_diagonal_multiply_columns


class BlockDiagonalLinear(nn.Module):
    """(..., in_dim) -> (..., out_dim). ``weight`` is (blocks, ceil(out_dim / blocks), ceil(in_dim / blocks)).

    Raises ``ValueError`` for less than one block, and for inputs of another width.
    """

    OPTIMIZER_HINTS: ClassVar[Mapping[str, OptimizerHint]] = {"weight": OptimizerHint(decay=True)}

    def __init__(self, in_dim: int, out_dim: int, blocks: int, bias: bool = True, shuffle: bool = False) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"a block-diagonal map has at least 1 block, got {blocks}: give a number that divides the widths")
        self.in_dim, self.out_dim, self.blocks, self.shuffle = in_dim, out_dim, blocks, shuffle
        self.weight = nn.Parameter(torch.empty(blocks, -(-out_dim // blocks), -(-in_dim // blocks)))
        self.bias = nn.Parameter(torch.empty(out_dim)) if bias else None
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        """Uniform within 1 / sqrt(inputs of a block), as in the official code, whatever the model's ``std``; no bias to begin with."""
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_dim:
            raise ValueError(f"expected {self.in_dim} channels, got {x.shape[-1]}: this map was built for that width")
        rows = x.reshape(-1, self.in_dim)
        y = self.channels_last(rows) if wants_rows(x) else self.channels_first(rows.mT).mT
        return y.reshape(*x.shape[:-1], self.out_dim)

    def channels_first(self, x: Tensor) -> Tensor:
        """The same of (in_dim, N) -> (out_dim, N)."""
        y = block_diagonal_multiply_columns(self._in_blocks(x), self.weight)[: self.out_dim]
        return y if self.bias is None else y + self.bias.unsqueeze(1)

    def channels_last(self, x: Tensor) -> Tensor:
        """The same of (N, in_dim) -> (N, out_dim), a product for each block."""
        parts = self._in_blocks(x.mT).mT.unflatten(1, (self.blocks, -1)).unbind(1)
        y = torch.cat([F.linear(part, weight) for part, weight in zip(parts, self.weight, strict=True)], 1)[:, : self.out_dim]
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """The matrix that it is, (out_dim, in_dim): ``F.linear(x, layer.dense(), layer.bias)`` is its slow twin."""
        whole = block_diagonal_dense(self.weight)
        if self.shuffle:
            whole = whole.unflatten(1, (-1, self.blocks)).transpose(1, 2).flatten(1, 2)
        return whole[: self.out_dim, : self.in_dim]

    def _in_blocks(self, x: Tensor) -> Tensor:
        """Padded to whole blocks, and in the order of the blocks."""
        missing = self.weight.shape[2] * self.blocks - self.in_dim
        x = F.pad(x, (0, 0, 0, missing)) if missing else x
        return x.unflatten(0, (self.blocks, -1)).transpose(0, 1).flatten(0, 1) if self.shuffle else x
