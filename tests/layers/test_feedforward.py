"""The feed-forward: its nonlinearities by their formulas, and hidden widths that are no round multiple."""

from __future__ import annotations

import math

import pytest
import torch

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
    assert FeedForward(FeedForwardConfig(expand=hidden / dim), dim).up.out_features == hidden
