"""Causal Monarch maps: the form with polynomials equals its dense twin, looks back alone, and holds the causal convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subquad.ops.causal_monarch import causal_basis, causal_monarch_conv, causal_monarch_conv_direct, prepare_taps
from subquad.ops.long_conv import long_conv, spectrum
from subquad.ops.monarch import monarch_multiply

SIZES = [(1, 1), (4, 1), (1, 5), (4, 2), (3, 5), (8, 4)]  # b and h


def _random(*shape: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def _parameters(b: int, h: int) -> tuple[Tensor, Tensor]:
    return _random(b, b, scale=0.4), _random(b, h, h, scale=0.4)


@pytest.mark.parametrize(("b", "h"), SIZES)
def test_it_is_the_map_written_out(b: int, h: int) -> None:
    torch.manual_seed(0)
    a, c = _parameters(b, h)
    for length, taps in {(b * h, b * h), (b * h, 1), (b * h // 2 + 1, b * h), (1, b * h)}:
        u, k = _random(2, 3, length), _random(3, taps)
        y, expected = causal_monarch_conv(u, k, a, c), causal_monarch_conv_direct(u, k, a, c)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
        weight = torch.randn_like(y)
        mine, theirs = (torch.autograd.grad((one * weight).sum(), [u, k, a, c]) for one in (y, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("b", "h"), SIZES)
def test_nothing_leaks_from_the_future(b: int, h: int) -> None:
    torch.manual_seed(0)
    n = b * h
    a, c = _parameters(b, h)
    u, k = torch.randn(1, 1, n, dtype=torch.float64), torch.randn(1, n, dtype=torch.float64)
    for method in ("fft", "dft", "direct"):
        matrix = torch.autograd.functional.jacobian(lambda x: causal_monarch_conv(x, k, a, c, method=method).flatten(), u)  # noqa: B023
        matrix = matrix.reshape(n, n)
        assert matrix.triu(1).abs().max() < 1e-10 * matrix.abs().max()
        assert matrix.diagonal().abs().min() > 1e-3 * abs(float(k[0, 0]))


def test_of_plain_powers_it_is_the_causal_convolution() -> None:
    torch.manual_seed(0)
    u, k, a, c = _random(2, 3, 30), _random(3, 30), torch.eye(8, dtype=torch.float64), torch.eye(4, dtype=torch.float64).expand(8, 4, 4)
    torch.testing.assert_close(causal_monarch_conv(u, k, a, c), long_conv(u, k), rtol=0, atol=1e-11)
    above = torch.ones(8, 8, dtype=torch.float64).triu(1)
    torch.testing.assert_close(causal_monarch_conv(u, k, above, torch.zeros_like(c)), long_conv(u, k), rtol=0, atol=1e-11)
    moved = causal_monarch_conv(u, k, a + 0.1 * above.mT, c)
    assert (moved - long_conv(u, k)).abs().max() > 0.1


def test_the_basis_is_triangular_and_a_monarch_matrix() -> None:
    torch.manual_seed(0)
    b, h = 4, 3
    a, c = (parameter.detach() for parameter in _parameters(b, h))
    basis = causal_basis(a, c)
    assert torch.equal(basis, basis.tril()) and torch.equal(basis.diagonal(), torch.ones(b * h, dtype=torch.float64))
    x = torch.randn(2, h, b, dtype=torch.float64)
    first, second = (x.tril(-1) + torch.eye(x.shape[-1], dtype=x.dtype) for x in (c, a))
    y = monarch_multiply(x.mT.flatten(1), first, second.expand(h, b, b)).unflatten(1, (b, h)).mT.flatten(1)
    torch.testing.assert_close(y, x.flatten(1) @ basis.mT, rtol=0, atol=1e-12)


def test_half_precision_and_wrong_inputs() -> None:
    torch.manual_seed(0)
    u, k, a, c = torch.randn(2, 3, 8), torch.randn(3, 8), 0.3 * torch.randn(4, 4), 0.3 * torch.randn(4, 2, 2)
    y = causal_monarch_conv(u.bfloat16(), k, a, c)
    torch.testing.assert_close(y, causal_monarch_conv(u.bfloat16().float(), k, a, c).bfloat16(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="give b square matrices in c"):
        causal_monarch_conv(u, k, a, c[1:])
    with pytest.raises(ValueError, match="one filter per channel"):
        causal_monarch_conv(u, k[1:], a, c)
    with pytest.raises(ValueError, match="9 positions exceed the 8 = h b"):
        causal_monarch_conv(torch.randn(2, 3, 9), k, a, c)


def test_prepared_taps_change_nothing() -> None:
    torch.manual_seed(0)
    a, c = (parameter.detach() for parameter in _parameters(4, 3))
    u, k = torch.randn(2, 3, 9, dtype=torch.float64), torch.randn(3, 12, dtype=torch.float64)
    taps = prepare_taps(k, 12, a, c)
    expected = causal_monarch_conv(u, k, a, c)
    for prepared in (taps, spectrum(taps, 12)):
        torch.testing.assert_close(causal_monarch_conv(u, prepared, a, c, prepared=True), expected, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="and set prepared=True"):
        causal_monarch_conv(u, spectrum(taps, 12), a, c)
    assert causal_monarch_conv(u[..., :0], k, a, c).shape == (2, 3, 0)
