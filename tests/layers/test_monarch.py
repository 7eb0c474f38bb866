"""The generic Monarch Mixer layer: its formula written out with dense matrices, a convolution as a special case, sizes kept."""

from __future__ import annotations

import ast
import inspect

import pytest
import torch
from torch import Tensor

from subquad.config import parse
from subquad.layers.monarch import Monarch, MonarchConfig, MonarchPair
from subquad.layers.monarch_linear import MonarchLinear
from subquad.layers.stack import Stack, StackConfig, init_weights
from subquad.ops.monarch import monarch_dense


def _dense(pair: MonarchPair) -> tuple[Tensor, Tensor]:
    first, second, third, fourth = pair.factors
    return monarch_dense(first, second), monarch_dense(third, fourth)


@torch.no_grad()
def test_the_formula_with_dense_matrices() -> None:
    torch.manual_seed(0)
    mixer = MonarchConfig(channels=True).build(9, 16).double()
    for pair in (mixer.sequence, mixer.channels):
        assert pair is not None
        pair.kernel.normal_()
    x = torch.randn(2, 16, 9, dtype=torch.float64)
    m1, m2 = _dense(mixer.sequence)
    y = m2 @ torch.relu(mixer.sequence.kernel.mT * (m1 @ x))
    assert mixer.channels is not None
    m3, m4 = _dense(mixer.channels)
    z = y + torch.relu(mixer.channels.kernel * (y @ m3.mT)) @ m4.mT
    torch.testing.assert_close(mixer(x), torch.nn.functional.layer_norm(z, (9,)), rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_input_keeps_its_size() -> None:
    torch.manual_seed(0)
    for length in (256, 1000):
        mixer = MonarchConfig().build(64, length)
        init_weights(mixer, 0.006)
        x = torch.randn(4, length, 64)
        assert 0.7 < float(mixer(x).std() / x.std()) < 1.4


def test_it_trains_in_a_stack() -> None:
    torch.manual_seed(0)
    stack = Stack(parse(StackConfig, {"dim": 8, "depth": 2, "mixer": {"kind": "monarch"}}), 16)
    x = torch.randn(2, 13, 8)
    stack(x).square().mul(torch.randn(2, 13, 8)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in stack.parameters())


def test_the_layer_has_fewer_than_40_lines() -> None:
    """As the paper says of its listing: lines of code of the two classes, without docstrings, blank lines and what refuses to decode."""
    count = 0
    for part in (Monarch, MonarchPair):
        source = inspect.getsource(part)
        left_out: set[int] = set()
        for node in ast.walk(ast.parse(source)):
            refuses = isinstance(node, ast.FunctionDef) and node.name in ("init_state", "prefill")
            if isinstance(node, ast.stmt) and (refuses or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
                left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        count += sum(bool(line.strip()) and number not in left_out for number, line in enumerate(source.splitlines(), 1))
    assert count < 40


@pytest.mark.parametrize("channels", [False, True])
@torch.no_grad()
def test_what_lies_under_a_mask_may_be_no_number(channels: bool) -> None:
    mixer = MonarchConfig(channels=channels).build(9, 16)
    x, mask = torch.randn(2, 16, 9), torch.arange(16).expand(2, -1) < 11
    broken = x.masked_fill(~mask.unsqueeze(-1), torch.nan)
    assert torch.equal(mixer(broken, mask), mixer(x, mask))


def test_wrong_lengths() -> None:
    mixer = MonarchConfig().build(8, 12)
    mixer(torch.randn(1, 12, 8))
    with pytest.raises(ValueError, match="13 positions exceed the 12 that this mixer was built for"):
        mixer(torch.randn(1, 13, 8))


@torch.no_grad()
def test_a_monarch_linear_map_is_its_matrix() -> None:
    torch.manual_seed(0)
    for inputs, outputs in ((30, 18), (7, 50), (16, 16)):
        layer = MonarchLinear(inputs, outputs, 2, 4).double()
        x = torch.randn(2, 3, inputs, dtype=torch.float64)
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.dense(), layer.bias), rtol=0, atol=1e-12)
