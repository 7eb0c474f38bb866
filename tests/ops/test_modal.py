"""Filters as exponentials: sums of few come back exactly, the recurrence is the convolution with what was found, errors are right."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from subquad.ops.modal import CHUNK, Modes, fit_modes, init_modal, modal_scan, modal_step
from subquad.ops.online_conv import online_conv_direct

DIM = 5


def _sums(poles: list[complex], length: int) -> Tensor:
    """Filters (DIM, length) with these poles, all real or in the upper half, random residues and a tap 0 of its own."""
    torch.manual_seed(0)
    powers = torch.tensor(poles, dtype=torch.complex128).unsqueeze(-1).pow(torch.arange(length - 1))
    residues = torch.randn(DIM, len(poles), dtype=torch.complex128)
    tail: Tensor = (residues + residues.sgn() * 0.5) @ powers
    return torch.cat((torch.randn(DIM, 1, dtype=torch.float64), tail.real), 1)


def _smooth(length: int) -> Tensor:
    """Decaying filters that are no finite sum of exponentials."""
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    speed = torch.arange(1, DIM + 1, dtype=torch.float64).unsqueeze(1)
    return torch.sin(20 * (t + 0.3) ** 2 * speed) * torch.exp(-4 * t) + 0.2 * torch.cos(3 * speed * t) / (1 + 9 * t)


def _error(k: Tensor, modes: Modes) -> Tensor:
    return ((k - modes.taps(k.shape[1])).square().sum(1) / k.square().sum(1)).sqrt()


def _modes(dtype: torch.dtype = torch.float64) -> Modes:
    return fit_modes(_smooth(200).to(dtype), 4)


@pytest.mark.parametrize("length", [40, 201, 1024])
@pytest.mark.parametrize(
    "poles",
    [
        [0.9],
        [-0.8],
        [0.7 + 0.6j],
        [0.95, -0.5, 0.3],
        [0.6 + 0.7j, -0.5 + 0.4j, 0.1 + 0.9j],
        [0.97, 0.4 + 0.8j, -0.9],
    ],
)
def test_sums_of_few_exponentials_are_recovered(poles: list[complex], length: int) -> None:
    k = _sums(poles, length)
    for spare in (0, 1, 4):
        modes = fit_modes(k, len(poles) + spare)
        torch.testing.assert_close(modes.taps(length), k, rtol=0, atol=1e-8)
        assert modes.error.max() < 1e-8
        if not spare:
            for found in modes.poles:
                nearest = (found.unsqueeze(1) - torch.tensor(poles, dtype=torch.complex128)).abs().min(0).values
                assert nearest.max() < 1e-6
    assert (modes.first == k[:, 0]).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_error_is_that_of_the_taps_and_falls_with_modes(dtype: torch.dtype) -> None:
    k = _smooth(500).to(dtype)
    last = torch.ones(DIM, dtype=dtype)
    for count in (1, 2, 4, 8, 16, 32):
        modes = fit_modes(k, count)
        assert modes.error.dtype is dtype
        torch.testing.assert_close(modes.error, _error(k, modes), rtol=1e-3, atol=1e-12 if dtype is torch.float64 else 1e-5)
        assert (modes.error <= 1.2 * last + 1e-5).all()
        assert modes.poles.shape == modes.residues.shape == (DIM, count)
        assert modes.poles.abs().max() < 1
        last = modes.error
    assert last.max() < 1e-2


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 300])
def test_any_filter_gives_stable_finite_modes(length: int) -> None:
    torch.manual_seed(0)
    growing = 1.01 ** torch.arange(length, dtype=torch.float64)
    k = torch.stack(
        (torch.randn(length).double(), growing, torch.zeros(length).double(), torch.ones(length).double(), growing * 0 + 1e-300)
    )
    modes = fit_modes(k, 3)
    assert modes.poles.abs().max() < 1
    assert modes.error.isfinite().all()
    assert modes.error.max() <= 1
    assert modes.residues.abs().isfinite().all()
    assert modes.error[2] == 0
    if length > 3:
        assert modes.error[3] < 1e-3  # a pole just inside the unit circle
    if length <= 2:
        assert modes.error.max() < 1e-12


def test_the_recurrence_is_the_convolution_with_the_taps() -> None:
    modes = _modes()
    u = torch.randn(2, 300, DIM, dtype=torch.float64)
    h, rows = init_modal(modes, 2), []
    for x in u.unbind(1):
        y, h = modal_step(x, h, modes)
        rows.append(y)
    torch.testing.assert_close(torch.stack(rows, 1), online_conv_direct(u, modes.taps(300)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_a_scan_equals_its_steps(length: int) -> None:
    modes = _modes()
    u = torch.randn(2, 7 + length, DIM, dtype=torch.float64)
    h, rows = init_modal(modes, 2), [u[:, :0]]
    for t, x in enumerate(u.unbind(1)):
        y, h = modal_step(x, h, modes)
        rows += [y.unsqueeze(1)] if t >= 7 else []
    _, start = modal_scan(u[:, :7], init_modal(modes, 2), modes)
    scanned, end = modal_scan(u[:, 7:], start, modes)
    torch.testing.assert_close(scanned, torch.cat(rows, 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(end, h, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_rows_advance_by_lengths_of_their_own(seed: int) -> None:
    chance, length = random.Random(seed), 2 * CHUNK + 40
    modes, u = _modes(), torch.randn(3, length, DIM, dtype=torch.float64)
    whole, at, h = online_conv_direct(u, modes.taps(length)), [0, 0, 0], init_modal(modes, 3)
    while min(at) < length:
        n = chance.choice((1, 5, 100, CHUNK + 30))
        counts = [min(chance.choice((0, n // 2, n, n)), length - start) for start in at]
        piece = torch.full((3, n, DIM), torch.nan, dtype=torch.float64)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            piece[row, :count] = u[row, start : start + count]
        y, h = modal_scan(piece, h, modes, counts)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            torch.testing.assert_close(y[row, :count], whole[row, start : start + count], rtol=0, atol=1e-9)
        at = [start + count for start, count in zip(at, counts, strict=True)]


def test_float32_and_half_precision() -> None:
    modes = fit_modes(_smooth(200).bfloat16(), 4)
    assert modes.poles.dtype is torch.complex64
    u = torch.randn(2, 300, DIM)
    direct = online_conv_direct(u.double(), modes.taps(300).double())
    y, h = modal_scan(u[:, :200], init_modal(modes, 2), modes)
    torch.testing.assert_close(y.double(), direct[:, :200], rtol=0, atol=1e-5 * float(direct.abs().max()))
    for t in range(200, 300):
        y, h = modal_step(u[:, t], h, modes)
        torch.testing.assert_close(y.double(), direct[:, t], rtol=0, atol=1e-5 * float(direct.abs().max()))
    assert h.dtype is torch.complex64
    half = u.bfloat16()
    assert modal_step(half[:, 0], init_modal(modes, 2), modes)[0].dtype is torch.bfloat16
    assert modal_scan(half, init_modal(modes, 2), modes)[0].dtype is torch.bfloat16


def test_bytes_held() -> None:
    assert _modes().nbytes == DIM * (4 * 16 * 2 + 8 + 8)


def test_wrong_fits() -> None:
    for k, count in ((torch.randn(3, 0), 1), (torch.randn(3), 1), (torch.randn(3, 4), 0)):
        with pytest.raises(ValueError, match="expected filters"):
            fit_modes(k, count)
