"""Counted FLOPs of linear attention: every product counted, none halved, and as much a byte at any length."""

from __future__ import annotations

from typing import Any

import pytest

from subquad.evaluation.flops import count_flops
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.stack import StackConfig
from subquad.models.language_model import LanguageModelConfig
from subquad.models.megabyte import MegabyteConfig


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


def test_a_training_step_counts_nearly_three_passes() -> None:
    forward, step = (count_flops("linear-transformer-small", backward=backward).total for backward in (False, True))
    assert 2.9 * forward < step < 3 * forward  # the sums of keys are a product with ones, which have no gradient


def test_inside_the_patches_of_a_megabyte() -> None:
    stages = (_stack(), _stack())
    counted = count_flops(MegabyteConfig(max_len=256, patch_size=4, cross_patch=0, stages=stages))
    above = (3 * 2 * 16 * 32 + 2 * 2 * 8 * 32) / 4  # 64 patches, one position each
    below = 3 * 2 * 4 * 32  # 4 bytes are one chunk
    assert counted.attention == 3 * (above + below)
