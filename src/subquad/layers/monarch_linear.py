"""A linear map whose matrix is a Monarch matrix of order p (arXiv 2310.12109, section 3): p block-diagonal factors, permutations between.

    order 1    y = B x + bias: channels in groups, each with its own small dense matrix
    order p    y = P B_p ... P B_1 x + bias: every output depends on every input

With ``blocks`` given (orders 1 and 2) each factor has that many; inputs are padded with zeros to whole blocks and outputs cut, as in
M2-BERT (order 1) and Monarch's first paper (order 2, arXiv 2204.00595). Without, inputs and outputs are written as p digits as near to
each other as can be, and factor i makes a digit of the outputs of one of the inputs. Parameters, and half the FLOPs a position, of D
inputs and D outputs: D^2 / blocks at order 1, p D^(1 + 1/p) at order p, where a dense map has D^2. (..., inputs) -> (..., outputs), each
position by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.layers.base import OptimizerHint
from subquad.ops.linear import block_diagonal_linear
from subquad.ops.monarch import even_factors, monarch_product, monarch_product_dense

Shape = tuple[int, int, int]  # of a factor: blocks, outputs and inputs of each


class MonarchLinear(nn.Module):
    """See the module's docstring. The factors (blocks, outputs, inputs) are ``weight`` at order 1, else ``factors``, the first one first.

    ``shuffle`` mixes the channels before: seen as a table of ``blocks`` rows they are transposed. Raises ``ValueError`` for widths and
    blocks that do not fit the order, and for inputs of another width.
    """

    OPTIMIZER_HINTS: ClassVar[Mapping[str, OptimizerHint]] = {"weight": OptimizerHint(decay=True), "factors.*": OptimizerHint(decay=True)}

    def __init__(
        self, inputs: int, outputs: int, order: int = 1, blocks: int | None = None, bias: bool = True, shuffle: bool = False
    ) -> None:
        super().__init__()
        shapes = _shapes(inputs, outputs, order, blocks)
        self.inputs, self.outputs, self.shuffle = inputs, outputs, shuffle
        self.padded = shapes[0][0] * shapes[0][2]
        if order == 1:
            self.weight = nn.Parameter(torch.empty(shapes[0]))
        else:
            self.factors = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.order = order
        self.init_weights(0.0)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """The factors, the first one first."""
        return (self.weight,) if self.order == 1 else tuple(self.factors)

    def init_weights(self, std: float) -> None:
        """Uniform, so that outputs are as large as those of a map drawn within 1 / sqrt(inputs of a block), whatever the model's ``std``;
        no bias to begin with."""
        for index, matrix in enumerate(self.matrices):
            bound = ((3 if index else 1) / matrix.shape[2]) ** 0.5  # all but the first keep the size of what they get
            nn.init.uniform_(matrix, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def scale(self, factor: float) -> None:
        """Makes the outputs, the bias apart, ``factor`` times as large."""
        self.matrices[-1].mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.inputs:
            raise ValueError(f"expected {self.inputs} channels, got {x.shape[-1]}: this map was built for that width")
        rows = self._in_blocks(x.reshape(-1, self.inputs))  # (N, padded)
        y = block_diagonal_linear(rows, self.weight) if self.order == 1 else monarch_product(rows, self.matrices)
        y = y[:, : self.outputs] if self.bias is None else y[:, : self.outputs] + self.bias  # (N, outputs)
        return y.reshape(*x.shape[:-1], self.outputs)

    def dense(self) -> Tensor:
        """The matrix written out, (outputs, inputs): ``F.linear(x, layer.dense(), layer.bias)`` is its slow twin."""
        matrix = monarch_product_dense(self.matrices)
        if self.shuffle:
            matrix = matrix.unflatten(1, (-1, self.matrices[0].shape[0])).transpose(1, 2).flatten(1, 2)
        return matrix[: self.outputs, : self.inputs]

    def _in_blocks(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, padded), in the order of the blocks."""
        x = F.pad(x, (0, self.padded - self.inputs)) if self.padded > self.inputs else x
        return x.unflatten(1, (self.matrices[0].shape[0], -1)).mT.flatten(1) if self.shuffle else x


def _shapes(inputs: int, outputs: int, order: int, blocks: int | None) -> list[Shape]:
    """Those of the factors, the first one first."""
    if blocks is not None and (blocks < 1 or order > 2):
        raise ValueError(f"maps of order 1 and 2 have at least 1 block, got {blocks} and order {order}: give blocks that divide the widths")
    if order == 1 or blocks is not None:
        blocks = blocks or 1
        entering, leaving = -(-inputs // blocks), -(-outputs // blocks)
        between = min(entering, leaving)
        return [(blocks, leaving, entering)] if order == 1 else [(blocks, between, entering), (blocks, leaving, between)]
    shapes, width = [], inputs
    for entering, leaving in zip(reversed(_digits(inputs, order)), reversed(_digits(outputs, order)), strict=True):
        shapes.append((width // entering, leaving, entering))  # the first factor acts on the last digit
        width = width // entering * leaving
    return shapes


def _digits(width: int, order: int) -> tuple[int, ...]:
    digits = even_factors(width, order)
    if min(digits) < 2:
        raise ValueError(f"a width of {width} is not a product of {order} numbers above 1: use another width or a lower order")
    return digits
