"""The position-wise feed-forward: D -> hidden -> D with one nonlinearity between. Cost 4 * D * hidden FLOPs a position, the bulk of a
large model."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from subquad.config import Config


class FeedForwardConfig(Config):
    """``expand`` is hidden / D; ``gelu_tanh`` is GELU by GPT-2's formula with a tanh."""

    expand: float = Field(4.0, gt=0)
    activation: Literal["relu", "gelu", "gelu_tanh", "squared_relu"] = "relu"


class FeedForward(nn.Module):
    """(B, T, D) -> (B, T, D), each position by itself."""

    def __init__(self, config: FeedForwardConfig, dim: int) -> None:
        super().__init__()
        self.activation = config.activation
        hidden = int(round(config.expand * dim, 6))  # a ratio of whole numbers may fall short of its product by a rounding
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.activation in ("gelu", "gelu_tanh"):
            return self.down(F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none"))
        hidden = F.relu(hidden)
        return self.down(hidden if self.activation == "relu" else hidden.square())
