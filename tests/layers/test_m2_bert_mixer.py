"""What is the Monarch mixer's own: its matrix written out, prepared spectra, filters with a reverse network, longer contexts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.layers.long_filter import ImplicitFilterConfig, TwoSidedFilter, WindowConfig
from subquad.layers.m2_bert_mixer import M2BertMixer, M2BertMixerConfig

SMALL = ImplicitFilterConfig(features=5, width=6)
LENGTH = 11


def mixer_of(**options: Any) -> M2BertMixer:
    torch.manual_seed(0)
    return M2BertMixerConfig(**{"filter": SMALL, **options}).build(4, LENGTH).double()


def toeplitz(taps: Tensor, reverse: Tensor | None) -> Tensor:
    """(D, T, T): taps[t - s] where s <= t, reverse[s - t - 1] where s > t."""
    lag = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    matrix = torch.where(lag >= 0, taps[:, lag.clamp(min=0)], 0)
    return matrix if reverse is None else matrix + torch.where(lag < 0, reverse[:, (-lag - 1).clamp(min=0)], 0)


@pytest.mark.parametrize(("two_sided", "residual", "norm"), list(itertools.product((False, True), repeat=3)))
@torch.no_grad()
def test_the_mixer_is_its_formula_with_matrices_written_out(two_sided: bool, residual: bool, norm: bool) -> None:
    mixer = mixer_of(two_sided=two_sided, residual=residual, norm=norm)
    x = torch.randn(2, LENGTH, 4, dtype=torch.float64)
    u = x if mixer.norm is None else mixer.norm(x)
    projected = torch.nn.functional.pad(mixer.project(u), (0, 0, 2, 0))
    p = sum(mixer.short.weight[:, j] * projected[:, 2 - j : 2 - j + LENGTH] for j in range(3)) + mixer.short.bias
    before, after, v = p.unflatten(-1, (3, 4)).unbind(2)
    matrices = [toeplitz(*filter_) for filter_ in mixer._filters(LENGTH)]
    v = before * v
    z = after * (torch.einsum("dts,bsd->btd", matrices[0], v) + mixer.skip.weight[0] * v)
    if mixer.residual_skip is not None:
        z = z + torch.einsum("dts,bsd->btd", matrices[1], u) + mixer.residual_skip.weight[0] * u
    torch.testing.assert_close(mixer(x), mixer.out(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("two_sided", [False, True])
@torch.no_grad()
def test_prepared_spectra_change_nothing(two_sided: bool) -> None:
    mixer = mixer_of(two_sided=two_sided)
    held = mixer.prepare(LENGTH)
    for length in (1, 7, LENGTH):
        x = torch.randn(2, length, 4, dtype=torch.float64)
        torch.testing.assert_close(mixer(x, None, held), mixer(x), rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_two_sided_filter_is_two_with_one_frequency_and_window() -> None:
    torch.manual_seed(0)
    config = ImplicitFilterConfig(features=5, width=6, window=WindowConfig(shift=0.1), frequency_scale=1.5)
    both = config.build_two_sided(3, LENGTH)
    assert isinstance(both, TwoSidedFilter)
    taps = both(LENGTH)
    for place, hidden, last in ((0, both.hidden, both.last), (1, both.reverse_hidden, both.reverse_last)):
        one = config.build(3, LENGTH)
        for own, other in zip((*one.hidden, one.last), (*hidden, last), strict=True):
            own.load_state_dict(other.state_dict())
        one.frequency.copy_(both.frequency)
        assert torch.equal(one(LENGTH), taps[3 * place : 3 * place + 3])
    assert not torch.equal(taps[:3], taps[3:])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be normalized"):
        mixer_of(two_sided=True, filter=SMALL.model_copy(update={"normalized": True}))
    with pytest.raises(ValueError, match="13 positions exceed the 11 of the filter"):
        mixer_of()(torch.randn(1, LENGTH + 2, 4, dtype=torch.float64))
