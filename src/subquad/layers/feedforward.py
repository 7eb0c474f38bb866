"""The position-wise feed-forward: D -> hidden -> D with one nonlinearity between. Cost 4 * D * hidden FLOPs a position, the bulk of a
large model."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from subquad.config import Config


class FeedForwardConfig(Config):
    """``expand`` is hidden / D."""

    expand: float = Field(4.0, gt=0)
    activation: Literal["relu", "gelu", "squared_relu"] = "relu"


class FeedForward(nn.Module):
    """(B, T, D) -> (B, T, D), each position by itself."""

    def __init__(self, config: FeedForwardConfig, dim: int) -> None:
        super().__init__()
        self.activation = config.activation
        hidden = int(config.expand * dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.activation == "gelu":
            return self.down(F.gelu(hidden))
        hidden = F.relu(hidden)
        return self.down(hidden if self.activation == "relu" else hidden.square())
