"""What is the language model's own: its tiny presets with every kind of feed-forward, and the start of its residual maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subquad.layers.feedforward import FeedForwardConfig
from subquad.layers.monarch_linear import MonarchLinear
from subquad.layers.stack import scale_output
from subquad.models.language_model import PRESETS, LanguageModelConfig

TINY = {name: config for name, config in PRESETS.items() if name.endswith("-tiny")}
TINY["hyena-tiny-scaled"] = TINY["hyena-tiny"].model_copy(update={"scale_residual": True})
FEEDFORWARDS: list[dict[str, Any]] = [
    {"order": 2},
    {"order": 3, "gated": True},
    {"blocks": 4},
    {"blocks": 2, "gated": True},
    {"gated": True},
]


@pytest.mark.parametrize("feedforward", FEEDFORWARDS, ids=str)
@pytest.mark.parametrize("config", TINY.values(), ids=TINY)
@torch.no_grad()
def test_tiny_presets_take_every_feed_forward(config: LanguageModelConfig, feedforward: dict[str, Any]) -> None:
    torch.manual_seed(0)
    stack = config.stack.model_copy(update={"depth": 2, "feedforward": FeedForwardConfig(**feedforward)})
    model = config.model_copy(update={"max_len": 24, "stack": stack}).build().double().eval()
    ids = torch.randint(256, (2, 10))
    state = model.init_state(2)
    model.prefill(ids[:, :8], state)
    torch.testing.assert_close(model.step(ids[:, 8], state), model(ids)[:, 9], rtol=0, atol=1e-9)


@torch.no_grad()
def test_scaling_a_map_scales_what_it_gives() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 16)
    for linear in (torch.nn.Linear(16, 16), MonarchLinear(16, 16, 1, 4), MonarchLinear(16, 16, 2)):
        assert linear.bias is not None
        torch.nn.init.normal_(linear.bias)
        before = linear(x) - linear.bias
        scale_output(linear, 0.25)
        torch.testing.assert_close(linear(x) - linear.bias, 0.25 * before)
