"""The position-wise feed-forward: D -> hidden -> D with a nonlinearity between. Cost 4 * D * hidden FLOPs a position, 6 where it is gated,
divided by ``blocks``; dense, it is the bulk of a large model.

    y = W_down act(W_up x),   gated:  y = W_down (act(W_gate x) * W_up x)

``blocks`` above 1 makes the maps block-diagonal (Monarch Mixer, arXiv 2310.12109, has 4). ``order`` p above 1 makes them Monarch
matrices of p factors, at 2 p D^(1 + 1/p) FLOPs a map of D to D: sub-quadratic in the width.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.config import Config
from subquad.layers.monarch_linear import MonarchLinear
from subquad.ops.linear import elementwise, in_cached_pieces


class FeedForwardConfig(Config):
    """``expand`` is hidden / D; ``gelu_tanh`` is GELU by GPT-2's formula with a tanh.

    ``gated`` doubles the first map; ``up_bias=False`` leaves its bias out. ``blocks`` are those of block-diagonal maps, ``order`` the
    number of factors of Monarch ones; dense maps have 1 of both.
    """

    expand: float = Field(4.0, gt=0)
    activation: Literal["relu", "gelu", "gelu_tanh", "squared_relu"] = "relu"
    gated: bool = False
    blocks: int = Field(1, gt=0)
    order: int = Field(1, gt=0)
    up_bias: bool = True

    @model_validator(mode="after")
    def _one_way(self) -> FeedForwardConfig:
        if self.blocks > 1 and self.order > 1:
            raise ValueError(
                f"maps are block-diagonal or Monarch matrices, got blocks={self.blocks} and order={self.order}: leave one of them at 1"
            )
        return self


class FeedForward(nn.Module):
    """(B, T, D) -> (B, T, D), each position by itself. Raises ``ValueError`` for blocks or an order that do not fit its widths."""

    def __init__(self, config: FeedForwardConfig, dim: int) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        hidden = int(round(config.expand * dim, 6))  # a ratio of whole numbers may fall short of its product by a rounding
        if config.blocks > 1 and (dim % config.blocks or hidden % config.blocks):
            raise ValueError(f"{config.blocks} blocks do not divide the widths {dim} and {hidden} of a feed-forward: change blocks or dim")
        self.hidden = 2 * hidden if config.gated else hidden
        self.up = _linear(config, dim, self.hidden, config.up_bias)
        self.down = _linear(config, hidden, dim, True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (B T, D)
        return in_cached_pieces(self._map, rows, self.hidden).view(x.shape)

    def _map(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        hidden = self.up(x)
        if self.gated:
            gate, hidden = hidden.chunk(2, -1)
            return self.down(elementwise(self._act, gate) * hidden)
        return self.down(elementwise(self._act, hidden))

    def _act(self, hidden: Tensor) -> Tensor:
        if self.activation in ("gelu", "gelu_tanh"):
            return F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        hidden = F.relu(hidden)
        return hidden if self.activation == "relu" else hidden.square()


def _linear(config: FeedForwardConfig, inputs: int, outputs: int, bias: bool) -> nn.Linear | MonarchLinear:
    if config.order > 1:
        return MonarchLinear(inputs, outputs, config.order, bias=bias)
    return nn.Linear(inputs, outputs, bias) if config.blocks == 1 else MonarchLinear(inputs, outputs, 1, config.blocks, bias)
