"""The feed-forward: its nonlinearities by their formulas, gates, blocks, and hidden widths that are no round multiple."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subquad.layers.block_diagonal import BlockDiagonalLinear
from subquad.layers.feedforward import FeedForward, FeedForwardConfig


@torch.no_grad()
def test_each_activation_is_its_formula() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    formulas = {
        "relu": lambda h: h.clamp(min=0),
        "squared_relu": lambda h: h.clamp(min=0) ** 2,
        "gelu": lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2,
        "gelu_tanh": lambda h: h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))) / 2,
    }
    for name, formula in formulas.items():
        layer = FeedForward(FeedForwardConfig.model_validate({"expand": 2, "activation": name}), 6).double()
        torch.testing.assert_close(layer(x), layer.down(formula(layer.up(x))))


@pytest.mark.parametrize(("hidden", "dim"), [(1728, 864), (15, 22), (29, 58), (1, 49), (47, 49)])
def test_a_ratio_of_whole_numbers_gives_the_hidden_width(hidden: int, dim: int) -> None:
    assert FeedForward(FeedForwardConfig(expand=hidden / dim), dim).up.weight.shape[0] == hidden


@pytest.mark.parametrize("gated", [False, True])
def test_blocks_equal_their_dense_maps(gated: bool) -> None:
    """The block-diagonal feed-forward is the dense one with the matrices written out, values and gradients."""
    torch.manual_seed(0)
    config = FeedForwardConfig(expand=2, activation="gelu", gated=gated, blocks=4, up_bias=not gated)
    blocks, dense = FeedForward(config, 12).double(), FeedForward(config.model_copy(update={"blocks": 1}), 12).double()
    assert isinstance(blocks.up, BlockDiagonalLinear) and isinstance(blocks.down, BlockDiagonalLinear)
    with torch.no_grad():
        for ours, whole in ((blocks.up, dense.up), (blocks.down, dense.down)):
            whole.weight.copy_(ours.dense())
            if ours.bias is not None and whole.bias is not None:
                whole.bias.copy_(ours.bias.normal_())
    x = torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(blocks(x), dense(x), rtol=0, atol=1e-12)
    weight = torch.randn(2, 3, 12, dtype=torch.float64)
    one, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (blocks(x), dense(x)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert blocks.up.weight.numel() * 4 == dense.up.weight.numel()


@torch.no_grad()
def test_a_gated_map_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = FeedForward(FeedForwardConfig(activation="gelu", gated=True, up_bias=False), 6).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    gate, hidden = layer.up.weight.chunk(2)
    torch.testing.assert_close(layer(x), layer.down(F.gelu(x @ gate.T) * (x @ hidden.T)))


@pytest.mark.parametrize(
    ("in_dim", "out_dim", "blocks", "shuffle"), [(8, 12, 4, False), (7, 5, 3, False), (6, 9, 3, True), (7, 10, 3, True)]
)
def test_a_block_diagonal_map_is_its_dense_twin(in_dim: int, out_dim: int, blocks: int, shuffle: bool) -> None:
    torch.manual_seed(0)
    layer = BlockDiagonalLinear(in_dim, out_dim, blocks, shuffle=shuffle).double()
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, in_dim, dtype=torch.float64, requires_grad=True)
    fast, slow = layer(x), F.linear(x, layer.dense(), layer.bias)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    weight = torch.randn_like(fast)
    of = [x, *layer.parameters()]
    for one, other in zip(*(torch.autograd.grad((y * weight).sum(), of) for y in (fast, slow)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x[0, 0]), fast[0, 0], rtol=0, atol=1e-12)


def test_wrong_blocks() -> None:
    with pytest.raises(ValueError, match="4 blocks do not divide the widths 10 and 40"):
        FeedForward(FeedForwardConfig(blocks=4), 10)
