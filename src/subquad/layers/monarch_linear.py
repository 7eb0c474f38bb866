"""A linear map whose matrix is a Monarch matrix of order 2 (arXiv 2204.00595): y = M2 M1 x + bias, two block-diagonal factors.

The input is filled up with zeros to whole blocks and the output cut. With b blocks each side, i and o the block sizes of input and output,
w1 is (b, min(i, o), i) and w2 (b, o, min(i, o)): b min(i, o) (i + o) parameters and twice as many FLOPs a position, where a dense map has
b^2 i o. (..., inputs) -> (..., outputs), each position by itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from subquad.config import Config
from subquad.ops.monarch import monarch_dense, monarch_multiply


class MonarchLinearConfig(Config):
    """``blocks`` of each factor."""

    blocks: int = Field(4, gt=0)
    bias: bool = True


class MonarchLinear(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: MonarchLinearConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.config, self.inputs, self.outputs = config, inputs, outputs
        entering, leaving = -(-inputs // config.blocks), -(-outputs // config.blocks)
        between = min(entering, leaving)
        self.w1 = nn.Parameter(torch.empty(config.blocks, between, entering))
        self.w2 = nn.Parameter(torch.empty(config.blocks, leaving, between))
        self.bias = nn.Parameter(torch.empty(outputs)) if config.bias else None
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        """Uniform within 1 / sqrt(inputs of a block), the bias within 1 / sqrt(outputs), whatever the model's ``std``: as in the original
        code."""
        for weight in (self.w1, self.w2):
            nn.init.uniform_(weight, -(weight.shape[2] ** -0.5), weight.shape[2] ** -0.5)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(self.outputs**-0.5), self.outputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.inputs:
            raise ValueError(f"expected {self.inputs} channels, got {x.shape[-1]}: this map was built for that width")
        fill = self.w1.shape[0] * self.w1.shape[2] - self.inputs
        y = monarch_multiply(F.pad(x, (0, fill)) if fill else x, self.w1, self.w2)[..., : self.outputs]
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """The matrix written out, (outputs, inputs)."""
        return monarch_dense(self.w1, self.w2)[: self.outputs, : self.inputs]
