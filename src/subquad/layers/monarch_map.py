"""A linear map whose matrix is a Monarch matrix of any order (arXiv 2310.12109, section 3): p block-diagonal factors, a turn after each.

    y = P B_p ... P B_1 x + bias,   of D inputs and E outputs, each written as p digits as near to each other as can be

Factor i makes a digit of the outputs of one of the inputs, so a map of D to D has p D^(1 + 1/p) parameters and twice as many FLOPs a
position, where a dense one has D^2 and 2 D^2. Every output depends on every input, which is not so in a block-diagonal map, the one of
order 1. (..., inputs) -> (..., outputs), each position by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from subquad.layers.base import OptimizerHint
from subquad.ops.monarch import even_factors, monarch_product, monarch_product_dense


class MonarchMap(nn.Module):
    """See the module's docstring. Raises ``ValueError`` for a width that has no such digits."""

    OPTIMIZER_HINTS: ClassVar[Mapping[str, OptimizerHint]] = {"factors.*": OptimizerHint(decay=True)}

    def __init__(self, inputs: int, outputs: int, order: int, bias: bool = True) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        entering, leaving, factors = _digits(inputs, order), _digits(outputs, order), []
        width = inputs
        for given, made in zip(reversed(entering), reversed(leaving), strict=True):  # the first factor acts on the last digit
            factors.append(torch.empty(width // given, made, given))
            width = width // given * made
        self.factors = nn.ParameterList(factors)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        """Uniform, so that what comes out is as large as from a dense or block-diagonal map drawn within 1 / sqrt(inputs), whatever the
        model's ``std``; no bias to begin with."""
        for index, factor in enumerate(self.factors):
            bound = ((3 if index else 1) / factor.shape[2]) ** 0.5  # all but the first keep the size of what they get
            nn.init.uniform_(factor, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def scale(self, by: float) -> None:
        """Makes what comes out, the bias apart, ``by`` times as large."""
        self.factors[-1].mul_(by)

    def forward(self, x: Tensor) -> Tensor:
        y = monarch_product(x, tuple(self.factors))
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """The matrix written out, (outputs, inputs): ``F.linear(x, layer.dense(), layer.bias)`` is its slow twin."""
        return monarch_product_dense(tuple(self.factors))


def _digits(width: int, order: int) -> tuple[int, ...]:
    found = even_factors(width, order)
    if min(found) < 2:
        raise ValueError(f"a width of {width} is no product of {order} numbers above 1: take another width, or a lower order")
    return found
