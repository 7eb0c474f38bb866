"""The feed-forward: its nonlinearities by their formulas, gates, blocks, and hidden widths that are not a round multiple."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subquad.layers.feedforward import FeedForward, FeedForwardConfig
from subquad.layers.monarch_linear import MonarchLinear
from subquad.ops import linear


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
    up = FeedForward(FeedForwardConfig(expand=hidden / dim), dim).up
    assert isinstance(up, nn.Linear) and up.out_features == hidden


@pytest.mark.parametrize("gated", [False, True])
def test_blocks_equal_their_dense_maps(gated: bool) -> None:
    """The block-diagonal feed-forward is the dense one with the matrices written out, values and gradients."""
    torch.manual_seed(0)
    config = FeedForwardConfig(expand=2, activation="gelu", gated=gated, blocks=4, up_bias=not gated)
    blocks, dense = FeedForward(config, 12).double(), FeedForward(config.model_copy(update={"blocks": 1}), 12).double()
    with torch.no_grad():
        for ours, whole in ((blocks.up, dense.up), (blocks.down, dense.down)):
            assert isinstance(ours, MonarchLinear) and isinstance(whole, nn.Linear)
            whole.weight.copy_(ours.dense())
            if ours.bias is not None:
                whole.bias.copy_(ours.bias.normal_())
    x = torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(blocks(x), dense(x), rtol=0, atol=1e-12)
    weight = torch.randn(2, 3, 12, dtype=torch.float64)
    one, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (blocks(x), dense(x)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    sizes = [sum(one.numel() for one in layer.up.parameters() if one.ndim > 1) for layer in (blocks, dense)]
    assert 4 * sizes[0] == sizes[1]


@torch.no_grad()
def test_a_gated_map_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = FeedForward(FeedForwardConfig(activation="gelu", gated=True, up_bias=False), 6).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    assert isinstance(layer.up, nn.Linear)
    gate, hidden = layer.up.weight.chunk(2)
    torch.testing.assert_close(layer(x), layer.down(F.gelu(x @ gate.T) * (x @ hidden.T)))


@pytest.mark.parametrize(
    ("in_dim", "out_dim", "blocks", "shuffle"), [(8, 12, 4, False), (7, 5, 3, False), (6, 9, 3, True), (7, 10, 3, True)]
)
def test_a_block_diagonal_map_is_its_dense_twin(in_dim: int, out_dim: int, blocks: int, shuffle: bool) -> None:
    torch.manual_seed(0)
    layer = MonarchLinear(in_dim, out_dim, 1, blocks, shuffle=shuffle).double()
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


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("order", [2, 3])
def test_a_feed_forward_of_any_order_equals_its_dense_maps(order: int, gated: bool) -> None:
    torch.manual_seed(0)
    config = FeedForwardConfig(expand=2, activation="gelu", gated=gated, order=order, up_bias=not gated)
    monarch, dense = FeedForward(config, 24).double(), FeedForward(config.model_copy(update={"order": 1}), 24).double()
    with torch.no_grad():
        for ours, whole in ((monarch.up, dense.up), (monarch.down, dense.down)):
            assert isinstance(ours, MonarchLinear) and isinstance(whole, nn.Linear)
            whole.weight.copy_(ours.dense())
            if ours.bias is not None:
                whole.bias.copy_(ours.bias.normal_())
    x = torch.randn(2, 3, 24, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(monarch(x), dense(x), rtol=0, atol=1e-12)
    weight = torch.randn(2, 3, 24, dtype=torch.float64)
    one, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (monarch(x), dense(x)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "order"), [(64, 1), (64, 2), (64, 3), (64, 6)])
def test_a_monarch_map_has_the_parameters_of_its_order_and_reaches_everywhere(width: int, order: int) -> None:
    """p D^(1 + 1/p) parameters; outputs a third as large in the square as inputs, as of a dense map drawn within 1 / sqrt(D)."""
    torch.manual_seed(0)
    layer = MonarchLinear(width, width, order, bias=False)
    assert sum(one.numel() for one in layer.parameters()) == round(order * width ** (1 + 1 / order))
    assert order == 1 or (layer.dense() != 0).all()
    y = layer(torch.randn(4000, width))
    assert 0.2 < y.square().mean() < 0.5


def test_wrong_blocks() -> None:
    with pytest.raises(ValueError, match="4 blocks do not divide the widths 10 and 40"):
        FeedForward(FeedForwardConfig(blocks=4), 10)
    with pytest.raises(ValueError, match="a width of 10 is not a product of 3 numbers above 1"):
        FeedForward(FeedForwardConfig(order=3), 10)
    with pytest.raises(ValueError, match="got blocks=4 and order=2: leave one of them at 1"):
        FeedForwardConfig(blocks=4, order=2)
    with pytest.raises(ValueError, match="expected 8 channels, got 9"):
        MonarchLinear(8, 8, 1, 4)(torch.randn(2, 9))
    with pytest.raises(ValueError, match="at least 1 block, got 0"):
        MonarchLinear(8, 8, 1, 0)
    with pytest.raises(ValueError, match="must be at least 1, got 8 and 0"):
        MonarchLinear(8, 8, 0)
    with pytest.raises(ValueError, match="got 2 and order 3"):
        MonarchLinear(8, 8, 3, 2)


@pytest.mark.parametrize("settings", [{}, {"gated": True, "blocks": 2}, {"order": 2}], ids=str)
def test_pieces_of_positions_change_nothing(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a backward pass positions go through a few at a time; the last piece is shorter."""
    monkeypatch.setattr(linear, "CACHED", 200)
    layer = FeedForward(FeedForwardConfig.model_validate({"activation": "gelu", **settings}), 16).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        pieces = layer(x)
    torch.testing.assert_close(pieces, layer(x).detach())


@pytest.mark.parametrize(("inputs", "outputs", "shuffle"), [(12, 20, False), (12, 20, True), (10, 7, False)])
def test_blocks_in_half_precision_are_the_same_map(inputs: int, outputs: int, shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MonarchLinear(inputs, outputs, 1, 4, shuffle=shuffle).double()
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    x = torch.randn(5, inputs, dtype=torch.float64)
    whole = layer(x)
    assert torch.allclose(whole, F.linear(x, layer.dense(), layer.bias), atol=1e-12)
    with monkeypatch.context() as patch:  # the products that half precision takes, in double
        patch.setattr(linear, "_multiplies_rows", lambda x: True)
        assert torch.allclose(layer(x), whole, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer.float()(x.float())
    assert torch.allclose(half.double(), whole, atol=0.05)
