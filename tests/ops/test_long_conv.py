"""Long convolutions: every method gives the sums as they are written, in values and gradients, and nothing wraps around."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.ops import fft_conv
from subquad.ops.long_conv import Method, Spectrum, long_conv, long_conv_direct, spectrum
from subquad.ops.long_conv_2d import long_conv_2d, long_conv_2d_direct
from subquad.ops.short_conv import short_conv, short_conv_direct

METHODS: tuple[Method, ...] = ("auto", "fft", "dft", "direct")
LENGTHS = (1, 2, 5, 37, 64, 100)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _agree(one: Tensor, other: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    weight = torch.randn_like(one)
    for mine, theirs in zip(*(torch.autograd.grad((y * weight).sum(), inputs, materialize_grads=True) for y in (one, other)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_method_is_the_direct_sum(length: int, method: Method) -> None:
    """Kernels shorter, as long and longer than the input, one and two sides."""
    torch.manual_seed(length)
    for taps, reverse_taps in itertools.product({1, 3, length, length + 9}, {None, 1, length, length + 4}):
        u, k, skip, before, after = _random(2, 3, length), _random(3, taps), _random(3), _random(2, 3, length), _random(2, 3, length)
        k_reverse = None if reverse_taps is None else _random(3, reverse_taps)
        y = long_conv(u, k, k_reverse, skip, before=before, after=after, method=method)
        expected = after * long_conv_direct(u * before, k, k_reverse, skip)
        _agree(y, expected, [u, k, skip, before, after, *([] if k_reverse is None else [k_reverse])])
        _agree(long_conv(u, k, k_reverse, method=method), long_conv_direct(u, k, k_reverse), [u, k])


@pytest.mark.parametrize("length", LENGTHS)
def test_pieces_of_channels_change_nothing(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fft_conv, "CACHED", 2 * 2 * fft_conv.fast_size(2 * length))  # two channels at a time, and one at last
    u, k, skip, gate = _random(2, 3, length), _random(3, length), _random(3), _random(2, 3, length)
    y = long_conv(u, k, None, skip, before=gate, after=gate, method="fft")
    _agree(y, gate * long_conv_direct(u * gate, k, None, skip), [u, k, skip, gate])


def test_a_spectrum_serves_any_shorter_input() -> None:
    torch.manual_seed(0)
    k, k_reverse, skip = _random(3, 50), _random(3, 30), _random(3)
    held = spectrum(k, 40, k_reverse)
    for length in (1, 17, 40):
        u = _random(2, 3, length)
        expected = long_conv_direct(u, k, k_reverse, skip)
        _agree(long_conv(u, held, skip=skip), expected, [u, skip])
    assert held.nbytes == held.values.numel() * 16
    with pytest.raises(ValueError, match="made for up to 40 positions cannot take 41 positions: make another"):
        long_conv(_random(2, 3, 41), held)
    with pytest.raises(ValueError, match="a reverse filter beside it"):
        long_conv(_random(2, 3, 4), held, k_reverse)


def test_an_impulse_at_the_end_stays_there() -> None:
    """A circular convolution would bring it back at the beginning."""
    for length, method in itertools.product(LENGTHS, METHODS):
        u = torch.zeros(1, 1, length)
        u[..., -1] = 1
        y = long_conv(u, torch.ones(1, length), method=method)
        assert y[..., :-1].abs().sum() < 1e-4 and (y[..., -1] - 1).abs().max() < 1e-5


def test_half_precision_inputs_run_in_float32() -> None:
    torch.manual_seed(0)
    u, k = torch.randn(2, 3, 300).bfloat16(), torch.randn(3, 300)
    y = long_conv(u, k)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, long_conv(u.float(), k).bfloat16(), rtol=0, atol=0)


def test_only_real_tensors_are_kept_for_the_backward_pass() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    u, k, gate = torch.randn(1, 4, 512, requires_grad=True), torch.randn(4, 512, requires_grad=True), torch.randn(1, 4, 512)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        long_conv(u, k, before=gate, after=gate)
    assert kept and not any(tensor.is_complex() for tensor in kept)


@pytest.mark.parametrize(("taps", "length"), [(1, 5), (3, 1), (3, 2), (4, 30), (9, 4)])
def test_short_convolutions(taps: int, length: int) -> None:
    torch.manual_seed(0)
    u, k, bias = _random(2, 3, length), _random(3, taps), _random(3)
    _agree(short_conv(u, k, bias), short_conv_direct(u, k, bias), [u, k, bias])
    _agree(short_conv(u, k), short_conv_direct(u, k), [u, k])


@pytest.mark.parametrize(
    ("shape", "taps", "center"), [((5, 7), (5, 7), (0, 0)), ((4, 6), (7, 11), (3, 5)), ((6, 3), (2, 9), (1, 4)), ((1, 1), (1, 1), (0, 0))]
)
def test_two_dimensions(shape: tuple[int, int], taps: tuple[int, int], center: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, k, skip = _random(2, 3, *shape), _random(3, *taps), _random(3)
    _agree(long_conv_2d(u, k, skip, center=center), long_conv_2d_direct(u, k, skip, center=center), [u, k, skip])
    _agree(long_conv_2d(u, k), long_conv_2d_direct(u, k), [u, k])


def test_wrong_inputs() -> None:
    u, k = torch.randn(2, 3, 8), torch.randn(3, 8)
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match="too little precision for a transform: keep filters in float32"):
            long_conv(u, k.to(half))
        with pytest.raises(ValueError, match="k_reverse is in"):
            spectrum(k, 8, k.to(half))
    with pytest.raises(ValueError, match=r"u must be \(B, D, L\) and k \(D, K\), got \(2, 3, 8\) and \(4, 8\)"):
        long_conv(u, torch.randn(4, 8))
    with pytest.raises(ValueError, match=r"u must be \(B, D, L\)"):
        long_conv(u[0], k)
    wrong: dict[str, dict[str, Any]] = {
        "method must be one of auto, fft, dft, direct, got 'ftt'": {"method": "ftt"},
        r"skip must be \(3,\), one number per channel, got \(4,\)": {"skip": torch.ones(4)},
        r"a gate must have the shape of u, \(2, 3, 8\), got \(1, 3, 8\)": {"before": torch.ones(1, 3, 8)},
    }
    for sentence, options in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            long_conv(u, k, **options)
    with pytest.raises(ValueError, match=r"u must be \(B, 3, L\), of floating-point numbers, got \(2, 3, 8\) of torch.int64"):
        long_conv(u.long(), k)
    with pytest.raises(ValueError, match="made for the method 'fft', got method='direct': leave out method"):
        long_conv(u, spectrum(k, 8), method="direct")
    with pytest.raises(ValueError, match="method must be one of fft, dft"):
        spectrum(k, 20, method="direct")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"u must be \(B, 3, L\)"):
        long_conv(u[:, :2], spectrum(k, 8))
    with pytest.raises(ValueError, match="make it from filters in float64"):
        long_conv(u.double(), spectrum(k, 8))
    with pytest.raises(ValueError, match="at least 1 position, got a length of -1"):
        spectrum(k, -1)
    with pytest.raises(ValueError, match="and center a place in k"):
        long_conv_2d(torch.randn(1, 3, 4, 4), torch.randn(3, 4, 4), center=(9, 9))
    assert long_conv(u[:0], k).shape == (0, 3, 8) and long_conv(u, k[:, :0]).abs().max() == 0
    assert long_conv(u[..., :0], k).shape == (2, 3, 0)
    assert isinstance(spectrum(k, 8), Spectrum)
