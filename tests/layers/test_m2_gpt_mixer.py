"""What is the causal Monarch mixer's own: its matrices written out, heads that share filters, both bases, prepared spectra, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subquad.config import parse
from subquad.layers.base import Mixer
from subquad.layers.gated_conv import GatedConvState
from subquad.layers.hyena import Hyena, HyenaConfig
from subquad.layers.long_filter import ImplicitFilterConfig
from subquad.layers.m2_gpt_mixer import M2GptMixer, M2GptMixerConfig
from subquad.ops.causal_monarch import causal_monarch_conv_direct
from subquad.training.optim import decayed_names

SMALL = ImplicitFilterConfig(features=5, width=6)
LENGTH = 13


def mixer_of(std: float = 0.3, dim: int = 8, **options: Any) -> M2GptMixer:
    torch.manual_seed(0)
    mixer = M2GptMixerConfig(**{"heads": 2, "filter": SMALL, **options}).build(dim, LENGTH).double()
    if mixer.basis is not None:
        nn.init.normal_(mixer.basis.a, std=std)
        nn.init.normal_(mixer.basis.c, std=std)
    return mixer


def convolved(mixer: M2GptMixer, z: Tensor, taps: Tensor) -> Tensor:
    """One head's convolution (B, T, D / H) by the slow twin; plain powers where no basis is learned."""
    a, c = (torch.zeros(5, 5), torch.zeros(5, 3, 3)) if mixer.basis is None else mixer.basis.factors
    return causal_monarch_conv_direct(z.mT, taps, a.double(), c.double()).mT


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("basis", [{}, {"basis": "learned"}, {"basis": "learned", "block": 4}], ids=str)
@torch.no_grad()
def test_every_head_is_its_formula_with_the_filters_of_all(order: int, basis: dict[str, Any]) -> None:
    mixer = mixer_of(order=order, **basis)
    x = torch.randn(2, LENGTH, 8, dtype=torch.float64)
    projected = torch.nn.functional.pad(mixer.project(x), (0, 0, 2, 0))
    p = sum(mixer.short.weight[:, j] * projected[:, 2 - j : 2 - j + LENGTH] for j in range(3)) + mixer.short.bias
    taps = mixer.filter(LENGTH).unflatten(0, (order - 1, 4))
    heads = []
    for parts in p.unflatten(-1, (2, order + 1, 4)).unbind(2):
        *gates, v = parts.unbind(2)
        z = gates.pop() * v
        for one, skip in zip(taps, mixer.skip.weight, strict=True):
            z = gates.pop() * (convolved(mixer, z, one) + skip * z)
        heads.append(z)
    torch.testing.assert_close(mixer(x), mixer.out(torch.cat(heads, -1)), rtol=0, atol=1e-10)


def test_one_head_without_a_learned_basis_is_hyena() -> None:
    torch.manual_seed(0)
    hyena, mixer = HyenaConfig(order=3, filter=SMALL).build(8, LENGTH), M2GptMixerConfig(heads=1, order=3, filter=SMALL).build(8, LENGTH)
    mixer.load_state_dict(hyena.state_dict())
    x = torch.randn(2, LENGTH, 8)
    torch.testing.assert_close(mixer(x), hyena(x))


def test_a_learned_basis_starts_as_the_fourier_one() -> None:
    plain, learned = mixer_of(), mixer_of(std=0.0, basis="learned")
    learned.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, LENGTH, 8, dtype=torch.float64)
    torch.testing.assert_close(learned(x), plain(x), rtol=0, atol=1e-12)


def test_heads_share_the_filters_and_a_basis_all_channels() -> None:
    """Of the parameters only the filters' last map shrinks with more heads; a basis has b^2 + b h^2, whatever the width."""
    one, four = mixer_of(heads=1), mixer_of(heads=4)
    assert one.filter(LENGTH).shape == (8, LENGTH) and four.filter(LENGTH).shape == (2, LENGTH)
    assert sum(p.numel() for p in one.parameters()) - sum(p.numel() for p in four.parameters()) == 6 * 6 + 6  # width 6; and skips
    basis = mixer_of(basis="learned").basis
    assert basis is not None and basis.a.shape == (6, 6) and basis.c.shape == (6, 3, 3)  # 6^2 >= 2 * 14: a context and its start


@pytest.mark.parametrize("options", [{}, {"order": 3}, {"basis": "learned"}], ids=str)
@torch.no_grad()
def test_prepared_spectra_change_nothing(options: dict[str, Any]) -> None:
    mixer = mixer_of(**options)
    held = mixer.prepare(LENGTH)
    for length in (1, 7, LENGTH):
        x = torch.randn(2, length, 8, dtype=torch.float64)
        torch.testing.assert_close(mixer(x, None, held), mixer(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{"order": 3}, {"order": 3, "basis": "learned"}], ids=str)
def test_whole_and_piecewise_passes_agree_and_gradients_reach_every_parameter(options: dict[str, Any]) -> None:
    mixer, x = mixer_of(**options), torch.randn(2, LENGTH, 8, dtype=torch.float64)
    with torch.no_grad():
        piecewise = mixer(x)
    whole = mixer(x)
    torch.testing.assert_close(whole, piecewise, rtol=0, atol=1e-11)
    whole.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in mixer.parameters())


def test_a_basis_is_trained_without_weight_decay() -> None:
    decayed = decayed_names(mixer_of(basis="learned"))
    assert decayed == {"project.weight", "short.weight", "out.weight"}


def test_autocast_keeps_the_basis_whole() -> None:
    mixer, x = mixer_of(std=0.1, basis="learned").float(), torch.randn(1, LENGTH, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = mixer(x)
    torch.testing.assert_close(low.float(), mixer(x), rtol=0.05, atol=0.05)


@torch.no_grad()
def test_the_state_of_all_heads_is_that_of_one_with_a_head_s_filters() -> None:
    """Filters and their spectra are held once; the rest is as much as Hyena's."""

    def nbytes(mixer: Mixer[GatedConvState], batch: int) -> int:
        return mixer.init_state(batch, LENGTH).nbytes

    mixer, hyena = mixer_of(), HyenaConfig(filter=SMALL).build(8, LENGTH).double()
    assert isinstance(hyena, Hyena)
    assert nbytes(mixer, 2) - nbytes(mixer, 1) == nbytes(hyena, 2) - nbytes(hyena, 1)
    assert nbytes(mixer, 1) < nbytes(hyena, 1)


WRONG: dict[str, dict[str, Any]] = {
    "'order': expected a value greater than or equal to 2, got 1": {"heads": 2, "order": 1},
    "'heads': expected a value greater than 0, got 0": {"heads": 0},
    'block is for a learned basis, got basis="dft": set basis="learned", or leave block out': {"heads": 2, "block": 4},
    "'basis': expected 'dft' or 'learned', got 'hadamard'": {"heads": 2, "basis": "hadamard"},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_configs(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(M2GptMixerConfig, WRONG[sentence])


def test_what_a_mixer_refuses() -> None:
    with pytest.raises(ValueError, match="dim 8 is not a multiple of 3 heads: change one of them"):
        mixer_of(heads=3)
    with pytest.raises(ValueError, match="15 positions exceed the 13 of the filter"):
        mixer_of()(torch.randn(1, LENGTH + 2, 8, dtype=torch.float64))
    for basis in ("dft", "learned"):
        state = mixer_of(basis=basis).init_state(1, 3)
        with pytest.raises(ValueError, match="holds 3 positions and is full"):
            mixer_of(basis=basis).prefill(torch.randn(1, 4, 8, dtype=torch.float64), state)


@pytest.mark.parametrize("basis", ["dft", "learned"])
def test_no_positions_give_none(basis: str) -> None:
    assert mixer_of(basis=basis)(torch.randn(2, 0, 8, dtype=torch.float64)).shape == (2, 0, 8)
    assert mixer_of(basis=basis)(torch.randn(0, 4, 8, dtype=torch.float64)).shape == (0, 4, 8)
