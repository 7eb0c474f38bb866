"""Small models that stand for every option; tests of the contract run over all of them."""

from __future__ import annotations

from typing import Any

import torch

from subquad.layers.attention import AttentionConfig
from subquad.layers.stack import StackConfig
from subquad.models.language_model import LanguageModelConfig
from subquad.models.megabyte import MegabyteConfig
from subquad.models.model import CausalModel, ModelConfig


def stack(dim: int, depth: int = 2, **mixer: Any) -> StackConfig:
    return StackConfig(dim=dim, depth=depth, mixer=AttentionConfig(heads=2, **mixer))


def megabyte(patch_size: int, **options: Any) -> MegabyteConfig:
    return MegabyteConfig(max_len=40, patch_size=patch_size, stages=(stack(4 * patch_size, rotary=False), stack(8)), **options)


MEGABYTE_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"cross_patch": 0},
    "cross-patch": {},
    "cross-patch-1": {"cross_patch": 1},
    "conv": {"conv_kernels": (3, 5, 7)},
    "without-local": {"without": "local"},
    "without-global": {"without": "global"},
    "without-both-links": {"without": "global", "cross_patch": 0},
}

THREE = (stack(12), stack(8), stack(8))

CASES: dict[str, ModelConfig] = {
    "transformer": LanguageModelConfig(max_len=40, stack=stack(16)),
    "transformer-learned": LanguageModelConfig(max_len=40, stack=stack(16, rotary=False), positions="learned", tied=False),
    "transformer-window": LanguageModelConfig(max_len=40, stack=stack(16, window=5)),
    "transformer-window-1": LanguageModelConfig(max_len=40, stack=stack(16, window=1)),
    **{f"megabyte-{size}-{name}": megabyte(size, **options) for size in (1, 2, 4, 5) for name, options in MEGABYTE_OPTIONS.items()},
    "megabyte-window": MegabyteConfig(max_len=40, patch_size=4, stages=(stack(12, window=3), stack(8))),
    "megabyte-three": MegabyteConfig(max_len=42, patch_size=(3, 2), stages=THREE),
    "megabyte-three-conv": MegabyteConfig(max_len=42, patch_size=(3, 2), stages=THREE, conv_kernels=(3, 5, 7), cross_patch=1),
    "megabyte-three-without-local": MegabyteConfig(max_len=42, patch_size=(3, 2), stages=THREE, without="local"),
    "megabyte-three-without-global": MegabyteConfig(max_len=42, patch_size=(3, 2), stages=THREE, without="global"),
    "megabyte-four": MegabyteConfig(max_len=40, patch_size=(2, 2, 2), stages=(stack(8), stack(8), stack(8), stack(8))),
}


def build(config: ModelConfig) -> CausalModel:
    """In double precision, with weights large enough that every input matters to every output that may see it."""
    torch.manual_seed(0)
    model = config.model_copy(update={"init_std": 0.5}).build().double().eval()
    assert isinstance(model, CausalModel)
    return model
