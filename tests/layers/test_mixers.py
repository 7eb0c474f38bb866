"""The contract of every mixer in the table, on its own: continuing from a state equals the whole sequence."""

from __future__ import annotations

import random

import pytest
import torch

from subquad.layers.attention import AttentionConfig
from subquad.layers.mixer import Mixer, MixerConfig, Segmented
from subquad.layers.mixers import MIXERS
from subquad.layers.short_conv import ConvEncoder

EXAMPLES: dict[str, list[MixerConfig]] = {
    "attention": [AttentionConfig(heads=2), AttentionConfig(heads=2, rotary=False), AttentionConfig(heads=3, head_dim=6, window=4)],
}


def test_every_mixer_has_examples() -> None:
    assert EXAMPLES.keys() == MIXERS.keys()


def _mixers() -> list[Mixer]:
    torch.manual_seed(0)
    built = [config.build(8) for configs in EXAMPLES.values() for config in configs]
    built += [AttentionConfig(heads=2).build_segmented(8, 5, lookback) for lookback in (0, 2, 5)]
    built += [Segmented(config.build(8), 5) for configs in EXAMPLES.values() for config in configs]
    return [mixer.double().eval() for mixer in built]


@pytest.mark.parametrize("mixer", _mixers(), ids=lambda mixer: type(mixer).__name__)
@torch.no_grad()
def test_prefill_and_step_equal_forward(mixer: Mixer) -> None:
    x = torch.randn(2, 23, 8, dtype=torch.float64)
    whole = mixer(x)
    for split in (0, 1, 4, 5, 6, 16, 23):
        state = mixer.init_state(2, 23)
        parts = [mixer.prefill(x[:, :split], state)] if split else []
        parts += [mixer.step(x[:, t], state).unsqueeze(1) for t in range(split, 23)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mixer", _mixers(), ids=lambda mixer: type(mixer).__name__)
@torch.no_grad()
def test_rows_advance_by_lengths_of_their_own(mixer: Mixer, seed: int) -> None:
    chance = random.Random(seed)
    x = torch.randn(3, 23, 8, dtype=torch.float64)
    whole, state, at = mixer(x), mixer.init_state(3, 23), [0, 0, 0]
    while min(at) < 23:
        n = chance.choice((1, 2, 6, 12))
        counts = [min(chance.randint(0, n), 23 - start) for start in at]
        piece = torch.randn(3, n, 8, dtype=torch.float64)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            piece[row, :count] = x[row, start : start + count]
        y = mixer.prefill(piece, state, counts)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            torch.testing.assert_close(y[row, :count], whole[row, start : start + count], rtol=0, atol=1e-9)
        at = [start + count for start, count in zip(at, counts, strict=True)]


@torch.no_grad()
def test_starting_anew_in_each_segment_is_attention_within_segments() -> None:
    torch.manual_seed(0)
    native = AttentionConfig(heads=2).build_segmented(8, 5, 0).double()
    wrapped = Segmented(AttentionConfig(heads=2).build(8), 5).double()
    wrapped.mixer.load_state_dict(native.state_dict())
    x = torch.randn(2, 23, 8, dtype=torch.float64)
    torch.testing.assert_close(native(x), wrapped(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixer", _mixers(), ids=lambda mixer: type(mixer).__name__)
@torch.no_grad()
def test_padding_changes_nothing(mixer: Mixer) -> None:
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 6:] = False
    masked = mixer(x, mask)
    torch.testing.assert_close(masked[1:, :6], mixer(x[1:, :6]), rtol=0, atol=1e-9)
    torch.testing.assert_close(masked[:1], mixer(x[:1]), rtol=0, atol=1e-9)
    assert masked[1, 6:].abs().max() == 0


def test_a_full_state_is_an_error() -> None:
    mixer = AttentionConfig(heads=2).build(8)
    state = mixer.init_state(1, 3)
    mixer.prefill(torch.randn(1, 3, 8), state)
    with pytest.raises(ValueError, match="holds 3 positions and is full"):
        mixer.step(torch.randn(1, 8), state)


def test_wrong_segments() -> None:
    with pytest.raises(ValueError, match="lookback 6 reaches past"):
        AttentionConfig(heads=2).build_segmented(8, 5, 6)
    with pytest.raises(ValueError, match="a window of 4 inside segments"):
        AttentionConfig(heads=2, window=4).build_segmented(8, 5, 0)
    with pytest.raises(ValueError, match="cannot look back over a patch's edge: set cross_patch=0"):
        MixerConfig.build_segmented(AttentionConfig(heads=2), 8, 5, 1)


@torch.no_grad()
def test_conv_encoder_continues_from_its_state() -> None:
    encoder = ConvEncoder(6, (3, 5, 7)).double()
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    for split in (1, 2, 7, 19):
        state = encoder.init_state(2)
        parts = [encoder.prefill(x[:, :split], state), encoder.prefill(x[:, split:], state)]
        torch.testing.assert_close(torch.cat(parts, 1), encoder(x), rtol=0, atol=1e-12)
