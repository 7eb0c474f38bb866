"""The contract of every mixer in the table, on its own: continuing from a state equals the whole sequence."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from subquad.config import parse
from subquad.layers.attention import AttentionConfig, KeyValues
from subquad.layers.base import Mixer, MixerConfig, Segmented
from subquad.layers.hyena import HyenaConfig
from subquad.layers.hyena_2d import Hyena2dConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.long_filter import ExplicitFilterConfig
from subquad.layers.m2_bert_mixer import M2BertMixerConfig
from subquad.layers.m2_gpt_mixer import CausalBasis
from subquad.layers.patch_conv import ConvEncoder
from subquad.layers.registry import MIXERS
from subquad.layers.stack import StackConfig
from subquad.ops.rotary import rotate_direct
from tests.layers.cases import examples

ROOT = Path(__file__).resolve().parents[2]
CAUSAL = [config for kind in MIXERS for config in examples(kind) if config.causal]
TWO_SIDED = [config for kind in MIXERS for config in examples(kind) if not config.causal]


@pytest.mark.parametrize(("old", "new"), [("monarch_mixer", "m2_bert"), ("causal_monarch", "m2_gpt")])
def test_kinds_of_earlier_versions_still_load(old: str, new: str) -> None:
    assert new in MIXERS and old not in MIXERS
    options = examples(new)[0].model_dump(exclude={"kind"})
    stack = parse(StackConfig, {"dim": 8, "depth": 1, "mixer": {"kind": old, **options}})
    assert stack == parse(StackConfig, {"dim": 8, "depth": 1, "mixer": {"kind": new, **options}})
    assert stack.mixer.model_dump()["kind"] == new
    with pytest.raises(ValueError, match="unknown key 'mixer.hops': known: kind, "):  # the options of the kind itself
        parse(StackConfig, {"dim": 8, "depth": 1, "mixer": {"kind": old, **options, "hops": 1}})


def _mixers() -> list[Mixer]:
    torch.manual_seed(0)
    built = [config.build(8, 23) for config in CAUSAL]
    built += [AttentionConfig(heads=2).build_segmented(8, 5, lookback) for lookback in (0, 2, 5)]
    built += [Segmented(config.build(8, 5), 5) for config in CAUSAL]
    for basis in (module for mixer in built for module in mixer.modules() if isinstance(module, CausalBasis)):
        nn.init.normal_(basis.a, std=0.2)  # which start as the Fourier basis
        nn.init.normal_(basis.c, std=0.2)
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


@pytest.mark.parametrize("mixer", _mixers(), ids=lambda mixer: type(mixer).__name__)
@torch.no_grad()
def test_an_empty_batch_decodes_to_nothing_and_another_width_is_refused(mixer: Mixer) -> None:
    for n in (1, 3, 7):
        assert mixer.prefill(torch.randn(0, n, 8, dtype=torch.float64), mixer.init_state(0, 23)).shape == (0, n, 8)
    with pytest.raises(ValueError, match="the width of the mixer, got \\(2, 3, 7\\): give it inputs of that width"):
        mixer.prefill(torch.randn(2, 3, 7, dtype=torch.float64), mixer.init_state(2, 23))


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
    wrapped = Segmented(AttentionConfig(heads=2).build(8, 23), 5).double()
    wrapped.mixer.load_state_dict(native.state_dict())
    x = torch.randn(2, 23, 8, dtype=torch.float64)
    torch.testing.assert_close(native(x), wrapped(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", TWO_SIDED, ids=str)
@torch.no_grad()
def test_two_sided_mixers_see_the_whole_sequence_and_no_padding(config: MixerConfig) -> None:
    """Every output depends on every input; what lies under a mask gives and gets nothing; there are no steps."""
    torch.manual_seed(0)
    length = 12
    mixer = config.build(8, length).double().eval()
    x = torch.randn(2, length, 8, dtype=torch.float64)
    whole = mixer(x)
    for row in range(2):
        torch.testing.assert_close(mixer(x[row : row + 1])[0], whole[row], rtol=0, atol=1e-9)
    reach = (
        config.filter.taps
        if isinstance(config, HyenaConfig | M2BertMixerConfig) and isinstance(config.filter, ExplicitFilterConfig)
        else length
    )
    for at in (0, 5, length - 1):
        changed = x.clone()
        changed[:, at, ::2] += 1  # not all channels alike, which a norm would take back
        moved = (mixer(changed) - whole).abs().amax((0, 2)) > 1e-9
        assert moved.all() or (reach < length and moved[max(at - reach, 0) : at + reach].all())
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, 7:] = False
    noise = torch.where(mask.unsqueeze(-1), x, torch.randn_like(x))
    torch.testing.assert_close(mixer(noise, mask), mixer(x, mask), rtol=0, atol=1e-9)
    assert mixer(x, mask)[1, 7:].abs().max() == 0
    if not isinstance(config, Hyena2dConfig):  # the shorter sequence alone; an image has one size
        torch.testing.assert_close(mixer(x, mask)[1:, :7], mixer(x[1:, :7]), rtol=0, atol=1e-9)
    if isinstance(config, HyenaConfig):  # and moved; the others know where they are
        torch.testing.assert_close(mixer(x.roll(3, 1), mask.roll(3, 1))[1, 3:10], mixer(x[1:, :7])[0], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="so it cannot decode"):
        mixer.init_state(1, length)


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


@pytest.mark.parametrize("kind", MIXERS)
def test_a_mask_is_of_bool_and_has_an_entry_a_position(kind: str) -> None:
    """The same sentence from every mixer of the table, in segments too."""
    x = torch.randn(2, 12, 8)
    for config in examples(kind):
        for mixer in (config.build(8, 12), Segmented(config.build(8, 12), 12)):
            mixer(x, torch.ones(2, 12, dtype=torch.bool))
            for wrong in (torch.ones(2, 12), torch.ones(2, 12, dtype=torch.int64), torch.ones(2, 11).bool(), torch.ones(12).bool()):
                with pytest.raises(
                    ValueError, match=r"a mask has one entry per position, \(2, 12\), True at real positions, got .* of torch"
                ):
                    mixer(x, wrong)


def test_a_full_state_is_an_error() -> None:
    mixer = AttentionConfig(heads=2).build(8, 23)
    state = mixer.init_state(1, 3)
    mixer.prefill(torch.randn(1, 3, 8), state)
    with pytest.raises(ValueError, match="holds 3 positions and is full"):
        mixer.step(torch.randn(1, 8), state)
    assert isinstance(state, KeyValues) and state.lengths == [3]


@torch.no_grad()
def test_the_state_of_linear_attention_has_one_size_in_float32() -> None:
    mixer = LinearAttentionConfig(heads=2, rotary=True).build(8, 23).bfloat16()
    short, long = mixer.init_state(3, 4), mixer.init_state(3, 10**9)
    assert short.nbytes == long.nbytes == 3 * 2 * (4 * 4 + 4) * 4
    mixer.prefill(torch.randn(3, 9, 8, dtype=torch.bfloat16), short, [9, 4, 0])
    assert short.nbytes == long.nbytes


def test_wrong_heads_of_linear_attention() -> None:
    with pytest.raises(ValueError, match="dim 8 is not a multiple of 3 heads"):
        LinearAttentionConfig(heads=3).build(8, 23)
    with pytest.raises(ValueError, match="head_dim is 5: make it even"):
        LinearAttentionConfig(heads=2, head_dim=5, rotary=True).build(8, 23)


def test_wrong_segments() -> None:
    with pytest.raises(ValueError, match="lookback 6 reaches past"):
        AttentionConfig(heads=2).build_segmented(8, 5, 6)
    with pytest.raises(ValueError, match="a window of 4 inside segments"):
        AttentionConfig(heads=2, window=4).build_segmented(8, 5, 0)
    with pytest.raises(ValueError, match="segments are for causal attention"):
        AttentionConfig(heads=2, two_sided=True).build_segmented(8, 5, 0)
    with pytest.raises(ValueError, match="only causal attention has a window, got window=4"):
        AttentionConfig(heads=2, two_sided=True, window=4)
    with pytest.raises(ValueError, match="cannot look back across a patch boundary: set cross_patch=0"):
        MixerConfig.build_segmented(AttentionConfig(heads=2), 8, 5, 1)


@torch.no_grad()
def test_conv_encoder_continues_from_its_state() -> None:
    encoder = ConvEncoder(6, (3, 5, 7)).double()
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    for split in (1, 2, 7, 19):
        state = encoder.init_state(2)
        parts = [encoder.prefill(x[:, :split], state), encoder.prefill(x[:, split:], state)]
        torch.testing.assert_close(torch.cat(parts, 1), encoder(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_fraction_of_the_channels_turns() -> None:
    """The first half of each head's channels as rotary positions of that width, the others as without positions."""
    torch.manual_seed(0)
    mixer = AttentionConfig(heads=2, head_dim=8, rotary_fraction=0.5).build(16, 23).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    plain = mixer.qkv(x).unflatten(-1, (3, 2, 8))
    for part, turned in enumerate(mixer._project(x, [0])):
        first = plain[:, :, part, :, :4]
        expected = first if part == 2 else rotate_direct(first, torch.arange(9)[:, None].expand(9, 2), 10_000.0)
        torch.testing.assert_close(turned[..., :4], expected, rtol=0, atol=1e-12)
        assert torch.equal(turned[..., 4:], plain[:, :, part, :, 4:])


@pytest.mark.parametrize("config", [config for config in examples("attention") if config.causal], ids=str)
def test_the_latest_positions_alone(config: AttentionConfig) -> None:
    torch.manual_seed(0)
    mixer = config.build(8, 23).double()
    x = torch.randn(2, 80, 8, dtype=torch.float64, requires_grad=True)
    for first in (1, 12, 79):
        whole, part = mixer(x)[:, first:], mixer(x, None, first)
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)
        weight = torch.randn_like(part)
        one, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (part, whole))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("head_dim", "fraction"), [(6, 0.5), (8, 0.3), (8, 0.01), (5, 1.0)])
def test_wrong_fractions(head_dim: int, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"head_dim is {head_dim} and rotary_fraction {fraction:g} of it"):
        AttentionConfig(heads=2, head_dim=head_dim, rotary_fraction=fraction).build(16, 23)
    AttentionConfig(heads=2, head_dim=head_dim, rotary_fraction=fraction, rotary=False).build(16, 23)


@pytest.mark.parametrize("config", CAUSAL + TWO_SIDED, ids=str)
def test_inputs_of_another_width_are_refused(config: MixerConfig) -> None:
    mixer = config.build(8, 12)
    for x in (torch.randn(2, 12, 9), torch.randn(12, 8, 1, 1)):
        with pytest.raises(ValueError, match=r"expected (\(B, T, 8\), the width of the mixer|3 x 4|4 x 3|2 x 6)"):
            mixer(x)


@pytest.mark.slow
def test_a_line_in_the_table_puts_a_mixer_under_the_contract() -> None:
    """The tests of mixers and models collect one that they have never heard of, and it passes them all."""
    files = ["tests/layers/test_mixers.py", "tests/models/test_contract.py", "tests/models/test_any_config.py"]
    names = "RunningSum or running_sum or any_config and language_model"
    command = [sys.executable, "-m", "pytest", "-v", "-p", "tests.layers.running_sum", "-p", "no:cacheprovider", "-k", names, *files]
    done = subprocess.run(command, cwd=ROOT, timeout=250, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line]
    for test in ("prefill_and_step_equal_forward[RunningSum", "padding_changes_nothing[RunningSum", "an_entry_a_position[running_sum"):
        assert any(test in line for line in passed)
    for test in ("step_equals_forward_at_every_position[language-model-running_sum", "any_config_that_validates_is_a_model[language_model"):
        assert any(test in line for line in passed)
