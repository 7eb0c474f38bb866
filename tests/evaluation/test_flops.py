"""Counted FLOPs: of linear attention every product and none halved, of Hyena its transforms, and the totals of published tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subquad.evaluation.flops import count_flops, count_parameters, skeleton
from subquad.layers.attention import AttentionConfig
from subquad.layers.feedforward import FeedForwardConfig
from subquad.layers.hyena import HyenaConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.long_filter import ImplicitFilterConfig
from subquad.layers.m2_gpt_mixer import M2GptMixerConfig
from subquad.layers.stack import StackConfig
from subquad.models import build_model, parse_model
from subquad.models.language_model import LanguageModelConfig
from subquad.models.megabyte import MegabyteConfig

# The paper's sizes in the official layout; that of 153M is the official model's own count.
HYENA_SIZES = {
    "hyena-125m": 125_306_112,
    "hyena-125m-o3": 133_029_120,
    "hyena-125m-slim": 126_162_048,
    "hyena-153m": 153_700_416,
    "hyena-355m": 359_519_488,
    "hyena-1.3b": 1_320_205_568,
}

M2_GPT_SIZES = {"m2-gpt-145m": 145_213_704, "m2-gpt-360m": 360_715_264}  # our reconstruction; the paper's are the rounded names


def _stack(**mixer: Any) -> StackConfig:
    return StackConfig(dim=32, depth=3, mixer=LinearAttentionConfig(heads=4, chunk=16, **mixer))


@pytest.mark.parametrize("rotary", [False, True])
def test_products_of_chunks_and_sums_are_booked_under_attention(rotary: bool) -> None:
    config = LanguageModelConfig(max_len=4096, stack=_stack(rotary=rotary))
    inside = 3 * 2 * 16 * 32  # scores, values, and the sums of keys: chunk positions each, all channels
    between = 2 * 2 * 8 * 32  # keys times values, queries times their sum: head_dim x head_dim a head
    for length in (64, 4096):
        for causal in ("half", "full"):
            assert count_flops(config, length, causal=causal).attention == 3 * (inside + between)
    assert count_flops(config, 16).attention == 3 * inside  # one chunk needs no sums


def test_the_rest_is_that_of_attention() -> None:
    linear, plain = count_flops("linear-transformer-small"), count_flops("transformer-small")
    assert (linear.linear, linear.logits) == (plain.linear, plain.logits)
    assert linear.attention < plain.attention


def test_a_table_of_positions_is_no_table_of_ids() -> None:
    sizes = {"vocab": 256, "stack": _stack(), "positions": "learned"}
    square, longer = (count_flops(LanguageModelConfig(max_len=length, **sizes), 64) for length in (256, 512))
    assert square == longer and square.embedding == 2 * 256 * 32


def test_a_training_step_counts_nearly_three_passes() -> None:
    forward, step = (count_flops("linear-transformer-small", backward=backward).total for backward in (False, True))
    assert 2.9 * forward < step < 3 * forward  # the sums of keys are a product with ones, which have no gradient


def test_inside_the_patches_of_a_megabyte() -> None:
    stages = (_stack(), _stack())
    counted = count_flops(MegabyteConfig(max_len=256, patch_size=4, cross_patch=0, stages=stages))
    above = (3 * 2 * 16 * 32 + 2 * 2 * 8 * 32) / 4  # 64 patches, one position each
    below = 3 * 2 * 4 * 32  # 4 bytes are one chunk
    assert counted.attention == 3 * (above + below)


@pytest.mark.parametrize(("preset", "published"), [("hyena-153m", 1.87e19), ("hyena-355m", 3.93e19)])
def test_totals_of_table_4_4(preset: str, published: float) -> None:
    """Training on 15.7 billion tokens in windows of 2,048, by the paper's rules: embeddings as products, all of the rectangle, three
    passes, and nothing for the filters, which a large batch shares."""
    flops = count_flops(preset, 2048, causal="full")
    tokens = 30_000 * 256 * 2048
    assert 3 * (flops.total + flops.embedding - flops.filters) * tokens == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize(("preset", "published"), [("transformer-125m", 1.88e19), ("transformer-350m", 4.77e19)])
def test_totals_of_its_baselines(preset: str, published: float) -> None:
    values = parse_model(preset).model_dump(mode="json") | {"vocab": 50_257, "max_len": 2048}
    flops = count_flops(values, 2048, causal="full")
    assert 3 * (flops.total + flops.embedding) * 30_000 * 256 * 2048 == pytest.approx(published, rel=0.01)


def test_transforms_and_filters_of_hyena() -> None:
    def config(**others: Any) -> LanguageModelConfig:
        mixer = HyenaConfig(order=3, filter=ImplicitFilterConfig(features=5, width=8))
        return LanguageModelConfig(max_len=1024, stack=StackConfig(dim=32, depth=3, mixer=mixer, **others))

    flops = count_flops(config(), 512)
    transform = 2.5 * 1024 * 10  # twice the length, padded: nothing wraps around
    assert flops.transforms * 512 == 3 * 2 * 32 * 3 * transform  # blocks, filters, channels; of input, filter and product
    assert flops.filters == 3 * 2 * (5 * 8 + 2 * 8 * 8 + 8 * 2 * 32)
    hybrid = count_flops(config(overrides={1: LinearAttentionConfig(heads=4, chunk=16)}), 512)
    assert hybrid.transforms == pytest.approx(flops.transforms * 2 / 3)
    assert hybrid.attention == count_flops(LanguageModelConfig(max_len=1024, stack=_stack()), 512).attention / 3


def test_shared_filters_are_transformed_once_for_all_heads() -> None:
    def config(**mixer: Any) -> LanguageModelConfig:
        of_stack = M2GptMixerConfig(heads=4, filter=ImplicitFilterConfig(features=5, width=8), **mixer)
        return LanguageModelConfig(max_len=1024, stack=StackConfig(dim=32, depth=3, mixer=of_stack, feedforward=None))

    flops = count_flops(config(), 512)
    assert flops.linear == 3 * 2 * 4 * 32 * 32  # projections to three parts and back, and no feed-forward
    assert flops.transforms * 512 == 3 * (2 * 32 + 32 / 4) * 2.5 * 1024 * 10
    assert flops.filters == 3 * 2 * (5 * 8 + 2 * 8 * 8 + 8 * 32 / 4)
    learned = count_flops(config(basis="learned", block=32), 512)
    assert (learned.transforms, learned.filters) == (flops.transforms, flops.filters)
    h = 512 // 32
    there, back = 2 * (32 + h), 32 + h  # products with both factors, and systems solved with them
    assert learned.linear - flops.linear == 3 * (32 * (there + back) + 32 / 4 * there)  # of inputs, and of the filters of one head


@pytest.mark.parametrize(("preset", "parameters"), (HYENA_SIZES | M2_GPT_SIZES).items())
def test_parameters_of_the_hyena_and_m2_gpt_presets(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build_model(preset)) == parameters


@pytest.mark.parametrize(
    ("feedforward", "weights"), [({}, 2 * 64 * 256), ({"blocks": 4}, 2 * 64 * 256 / 4), ({"order": 2}, 2 * (64 * 16 + 128 * 16))]
)
def test_feed_forwards_of_blocks_and_factors_are_counted(feedforward: dict[str, int], weights: float) -> None:
    """Of order 2 on widths 64 = 8 x 8 and 256 = 16 x 16 the factors are 8 of (16, 8) and 16 of (16, 8), and back 16 of (8, 16) and 8."""
    stack = StackConfig(dim=64, depth=2, mixer=AttentionConfig(heads=2), feedforward=FeedForwardConfig.model_validate(feedforward))
    flops = count_flops(LanguageModelConfig(max_len=64, stack=stack))
    assert flops.linear == 2 * 2 * (4 * 64**2 + weights)


def test_counting_leaves_the_shared_skeleton_whole() -> None:
    model = skeleton("megabyte-tiny")
    before = count_parameters(model)
    assert count_flops("megabyte-tiny", 128, backward=True) == count_flops("megabyte-tiny", 128, backward=True)
    with pytest.raises(ValueError, match="exceed the context"):
        count_flops("megabyte-tiny", 1 << 20)
    assert skeleton("megabyte-tiny") is model and count_parameters(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
