"""The transform of real numbers as matrix products: it is the Fourier transform, wastes no half of its work, and convolves exactly."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from subquad.ops import dft_conv
from subquad.ops.dft_conv import RealDFT, dft_radices
from subquad.ops.long_conv import Method, long_conv, long_conv_direct, spectrum

RADICES = [(1, 1), (2, 1), (5, 1), (4, 4), (7, 2), (6, 4), (4, 2, 2), (5, 4, 2), (6, 2, 8)]


@pytest.mark.parametrize("radices", RADICES)
def test_it_is_the_fourier_transform(radices: tuple[int, ...]) -> None:
    """Frequency f1 + a g, or f1 + a (g1 + b g2), by its place; the others are conjugates; the transpose undoes it."""
    torch.manual_seed(0)
    n, half = math.prod(radices), radices[0] // 2 + 1
    x = torch.randn(3, n, dtype=torch.float64)
    dft = RealDFT(radices, x)
    place = torch.arange(1)  # of a frequency: its first digit is the least
    for radix in reversed(radices):
        digits = torch.arange(radix if place.ndim < len(radices) else half)
        place = digits.reshape(-1, *(1,) * place.ndim) + radix * place
    place = place.squeeze(-1)
    expected = torch.fft.fft(x, norm="ortho")[:, place]
    z = dft.forward(x)
    found = torch.complex(*z.unbind(-2)) / dft.weight.reshape(-1, *(1,) * (len(radices) - 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(dft.transpose(z, n), x, rtol=0, atol=1e-12)
    for length in {1, n // 2, n}:
        padded = torch.cat((x[:, :length], torch.zeros(3, n - length, dtype=torch.float64)), 1)
        torch.testing.assert_close(dft.forward(x[:, :length]), dft.forward(padded), rtol=0, atol=1e-12)
        torch.testing.assert_close(dft.transpose(z, length), x[:, :length], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("least", "order"), [(2048, 2), (8191, 2), (16384, 3)])
def test_no_half_of_the_work_is_wasted(least: int, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiplications there and back of an input of half the length, against the count in the module's docstring."""
    counts: list[int] = []
    product = RealDFT._product

    def counted(self: RealDFT, one: Tensor, other: Tensor) -> Tensor:
        y = product(self, one, other)
        counts.append(y.numel() * one.shape[-1])
        return y

    monkeypatch.setattr(RealDFT, "_product", counted)
    radices = dft_radices(least)
    first, *inner = radices
    n = math.prod(radices)
    assert len(radices) == order and least <= n < 1.02 * least
    x = torch.randn(1, least // 2)
    dft = RealDFT(radices, x)
    dft.transpose(dft.forward(x), least // 2)
    stated = n * (first + 4 * sum(inner))
    assert 0.99 * stated < sum(counts) < stated * (1 + 2.5 / first)
    assert sum(counts) < 8 * n * 2 * n**0.5 / 2.5  # of complex transforms of the padded input


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("length", [1, 2, 37, 100])
@pytest.mark.parametrize("reverse", [False, True])
def test_order_3_gives_the_direct_sums(length: int, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dft_conv, "ORDER_3_FROM", 1)
    assert len(dft_radices(length)) == 3
    torch.manual_seed(length)
    u, k, back, skip, gate = (
        _random(2, 3, length),
        _random(3, length),
        _random(3, length) if reverse else None,
        _random(3),
        _random(2, 3, length),
    )
    y = long_conv(u, k, back, skip, before=gate, method="dft")
    expected = long_conv_direct(gate * u, k, back, skip)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    weight, inputs = torch.randn_like(y), [u, k, skip, gate, *([] if back is None else [back])]
    mine, theirs = (torch.autograd.grad((one * weight).sum(), inputs, materialize_grads=True) for one in (y, expected))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_at_thousands_of_positions_it_is_the_fft() -> None:
    torch.manual_seed(0)
    for length in (1000, 5000):
        u, k = torch.randn(1, 2, length, dtype=torch.float64), torch.randn(2, length, dtype=torch.float64)
        torch.testing.assert_close(long_conv(u, k, method="dft"), long_conv(u, k, method="fft"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [50, 5000])
def test_a_spectrum_for_matrix_products(length: int) -> None:
    torch.manual_seed(0)
    k, back, skip = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, length), (3, length - 9), (3,)))
    held = spectrum(k, length, back, method="dft")
    assert len(held.radices) == 2 + (length == 5000) and not held.values.is_complex()
    for part in (1, 33, length):
        u, gate = torch.randn(2, 3, part, dtype=torch.float64), torch.randn(2, 3, part, dtype=torch.float64)
        y = long_conv(u, held, skip=skip, before=gate, after=gate)
        torch.testing.assert_close(y, long_conv(u, k, back, skip, before=gate, after=gate), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=f"made for up to {length} positions"):
        long_conv(torch.randn(2, 3, length + 1), held)


@pytest.mark.parametrize("method", get_args(Method))
def test_autocast_takes_no_digits(method: Method) -> None:
    torch.manual_seed(0)
    u, k = torch.randn(2, 3, 100), torch.randn(3, 100)
    with torch.autocast("cpu", torch.bfloat16):
        y = long_conv(u, k, method=method)
    torch.testing.assert_close(y, long_conv(u, k, method=method), rtol=0, atol=0)
