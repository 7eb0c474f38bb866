"""Small models that stand for every option; tests of the contract run over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from subquad.config import with_changes
from subquad.layers.attention import AttentionConfig
from subquad.layers.hyena import HyenaConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.long_filter import ExplicitFilterConfig, FilterConfig, ImplicitFilterConfig
from subquad.layers.m2_bert_mixer import M2BertMixerConfig
from subquad.layers.m2_gpt_mixer import CausalBasis, M2GptMixerConfig
from subquad.layers.registry import MIXERS
from subquad.layers.stack import StackConfig
from subquad.models.base import CausalModel, ModelConfig
from subquad.models.language_model import LanguageModelConfig
from subquad.models.megabyte import MegabyteConfig
from subquad.models.perceiver_ar import PerceiverARConfig
from tests.layers.cases import examples


def stack(dim: int, depth: int = 2, **mixer: Any) -> StackConfig:
    return StackConfig(dim=dim, depth=depth, mixer=AttentionConfig(heads=2, **mixer))


def linear_stack(dim: int, depth: int = 2, rotary: bool = False, chunk: int = 8) -> StackConfig:
    return StackConfig(dim=dim, depth=depth, mixer=LinearAttentionConfig(heads=2, rotary=rotary, chunk=chunk))


def hyena(order: int = 2, filter: FilterConfig | None = None, **options: Any) -> HyenaConfig:
    return HyenaConfig(order=order, filter=filter or ImplicitFilterConfig(features=5, width=8), **options)


def hyena_stack(dim: int, depth: int = 2, order: int = 2, **options: Any) -> StackConfig:
    return StackConfig(dim=dim, depth=depth, mixer=hyena(order, **options))


def monarch_stack(dim: int, depth: int = 2, **options: Any) -> StackConfig:
    mixer = M2BertMixerConfig(filter=ImplicitFilterConfig(features=5, width=8), **options)
    return StackConfig(dim=dim, depth=depth, mixer=mixer)


def m2_gpt_stack(dim: int, depth: int = 2, heads: int = 2, **options: Any) -> StackConfig:
    mixer = M2GptMixerConfig(heads=heads, filter=ImplicitFilterConfig(features=5, width=8), **options)
    return StackConfig(dim=dim, depth=depth, mixer=mixer, feedforward=None)


def megabyte(patch_size: int, **options: Any) -> MegabyteConfig:
    return MegabyteConfig(max_len=40, patch_size=patch_size, stages=(stack(4 * patch_size, rotary=False), stack(8)), **options)


def perceiver_ar(latents: int, rotary_fraction: float = 0.5, **options: Any) -> PerceiverARConfig:
    return PerceiverARConfig(max_len=40, latents=latents, stack=stack(16, rotary_fraction=rotary_fraction), **options)


THREE = (stack(12), stack(8), stack(8))

# Each option of a model and a mixer in one case at least, and what meets them in different ones; test_any_config.py mixes them at random.
CASES: dict[str, ModelConfig] = {
    "transformer": LanguageModelConfig(max_len=40, stack=stack(16)),
    "transformer-learned": LanguageModelConfig(max_len=40, stack=stack(16, rotary=False), positions="learned", tied=False),
    "transformer-window": LanguageModelConfig(max_len=40, stack=stack(16, window=5)),
    "megabyte-1-cross-patch": megabyte(1),
    "megabyte-1-without-global": megabyte(1, ablation="global"),
    "megabyte-2-conv": megabyte(2, conv_kernels=(3, 5, 7)),
    "megabyte-4-cross-patch-1": megabyte(4, cross_patch=1),
    "megabyte-4-without-local": megabyte(4, ablation="local"),
    "megabyte-5-cross-patch": megabyte(5),
    "megabyte-5-without-both-links": megabyte(5, ablation="global", cross_patch=0),
    "megabyte-three-conv": MegabyteConfig(max_len=42, patch_size=(3, 2), stages=THREE, conv_kernels=(3, 5, 7), cross_patch=1),
    "megabyte-three-without-local": MegabyteConfig(max_len=42, patch_size=(3, 2), stages=THREE, ablation="local"),
    "megabyte-three-without-global": MegabyteConfig(max_len=42, patch_size=(3, 2), stages=THREE, ablation="global"),
    "megabyte-four": MegabyteConfig(max_len=40, patch_size=(2, 2, 2), stages=(stack(8, window=3), stack(8), stack(8), stack(8))),
    "linear-transformer-rotary": LanguageModelConfig(max_len=40, stack=linear_stack(16, rotary=True)),
    "linear-transformer-learned": LanguageModelConfig(max_len=40, stack=linear_stack(16), positions="learned"),
    "megabyte-linear-global": MegabyteConfig(max_len=40, patch_size=4, stages=(linear_stack(16, chunk=3), stack(8))),
    "megabyte-linear-both": MegabyteConfig(
        max_len=40, patch_size=4, stages=(linear_stack(16, rotary=True), linear_stack(8, rotary=True, chunk=3)), cross_patch=0
    ),
    "hyena-equation-4": LanguageModelConfig(max_len=40, stack=hyena_stack(16, short_first=False)),
    "hyena-3": LanguageModelConfig(max_len=40, stack=hyena_stack(16, order=3), positions="learned", tied=False, start="none"),
    "hyena-learned-features": LanguageModelConfig(
        max_len=40, stack=hyena_stack(16, filter=ImplicitFilterConfig(features=3, width=8, learned_features=True)), scale_residual=True
    ),
    "hyena-conv1d-monarch": LanguageModelConfig(
        max_len=40, stack=with_changes(hyena_stack(16, filter=ExplicitFilterConfig(taps=9)), {"feedforward": {"order": 2, "gated": True}})
    ),
    "hyena-hybrid": LanguageModelConfig(
        max_len=40, stack=with_changes(hyena_stack(16, depth=3), {"overrides": {1: AttentionConfig(heads=2)}}), start="none"
    ),
    "megabyte-hyena-both": MegabyteConfig(max_len=40, patch_size=4, stages=(hyena_stack(16), hyena_stack(8, order=3)), cross_patch=0),
    "monarch-mixer-alone": LanguageModelConfig(
        max_len=40, stack=with_changes(monarch_stack(16, residual=False), {"feedforward": None}), scale_residual=True
    ),
    "monarch-mixer-post-norm": LanguageModelConfig(
        max_len=40,
        stack=with_changes(
            monarch_stack(16),
            {"norm": "after", "mixer_residual": False, "feedforward": {"activation": "gelu", "gated": True, "blocks": 4}},
        ),
    ),
    "m2-gpt-3": LanguageModelConfig(max_len=40, stack=m2_gpt_stack(16, heads=4, order=3), start="none"),
    "m2-gpt-learned": LanguageModelConfig(max_len=40, stack=m2_gpt_stack(16, basis="learned"), scale_residual=True),
    "megabyte-m2-gpt-both": MegabyteConfig(
        max_len=40, patch_size=4, stages=(m2_gpt_stack(16), m2_gpt_stack(8, basis="learned", block=3)), cross_patch=0
    ),
    "perceiver-ar-2": perceiver_ar(2, cross_heads=1, tied=True),
    "perceiver-ar-6": perceiver_ar(6, 1.0, cross_heads=4),
    "perceiver-ar-one-window": perceiver_ar(64),
}


def stacks(config: ModelConfig) -> Sequence[StackConfig]:
    return config.stages if isinstance(config, MegabyteConfig) else [value for _, value in config if isinstance(value, StackConfig)]


COVERED = {stack.mixer.kind for config in CASES.values() for stack in stacks(config)}
for kind in MIXERS:
    if kind not in COVERED and (mixer := examples(kind)[0]).causal:
        CASES[f"language-model-{kind}"] = LanguageModelConfig(max_len=40, stack=StackConfig(dim=16, depth=2, mixer=mixer))


def build(config: ModelConfig) -> CausalModel:
    """In double precision, with weights large enough that every input matters to every output that may see it."""
    torch.manual_seed(0)
    model = with_changes(config, {"init_std": 0.5}).build().double().eval()
    assert isinstance(model, CausalModel)
    if isinstance(head := getattr(model, "head", None), nn.Linear):  # which may start at zero
        nn.init.normal_(head.weight, std=0.5)
    for basis in (module for module in model.modules() if isinstance(module, CausalBasis)):
        nn.init.normal_(basis.a, std=0.2)  # which start as the Fourier basis
        nn.init.normal_(basis.c, std=0.2)
    return model
