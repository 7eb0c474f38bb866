"""Long convolutions: filters as long as the input, causal, two-sided or two-dimensional, and never circular.

    y[t] = skip u[t] + sum over j of k[j] u[t - j] + sum over j of k_reverse[j] u[t + 1 + j]

Shapes: u (B, D, L), k and k_reverse (D, K) of any length, skip (D,); B batch, D channels, L positions. Source: Hyena (arXiv 2302.10866),
section 3.3; the two-sided form is Monarch Mixer's, whose reverse filter begins at lag 1. The three methods give the same sums:

    fft      L log L; the filter and the input padded to their joint length. Pieces of channels go through the transforms while they lie
             in the processor's cache; the backward pass computes spectra anew, so that only real tensors are kept.
    dft      L^1.5; the same transforms as matrix products (``ops/dft_conv.py``), for machines whose matrix unit is far ahead.
    direct   L K; a product with each channel's Toeplitz matrix, or shifted sums for a few taps.

All sums run in float32 or better, whatever the type of u and the autocast; filters in half precision are refused, since a transform loses
their digits. The dft method may multiply numbers in half precision (``operand``) where the error below allows it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32, full_precision
from subquad.ops.conv_arguments import check_choices, check_filters, check_inputs, check_operand
from subquad.ops.dft_conv import RealDFT, dft_conv, dft_radices
from subquad.ops.fft_conv import FFTFilter, fast_size, fft_conv, reach, seen, wrapped
from subquad.ops.short_conv import short_conv

Method = Literal["auto", "fft", "dft", "direct"]

SHORT_TAPS = 16  # up to here shifted sums are the fastest (benchmarks/long_conv.py has the crossovers)
SHORT_LENGTH = 64  # up to here products with Toeplitz matrices are


@dataclass(frozen=True)
class Spectrum:
    """What a filter comes down to for inputs of up to ``length`` positions: ``values`` (D, size / 2 + 1), its transform, complex.

    For the dft method ``radices`` are the steps of the transform, and ``values`` has the real numbers of ``RealDFT.filter``. It holds
    until the filter changes; no gradient flows back through it.
    """

    values: Tensor
    size: int
    length: int
    radices: tuple[int, ...] = ()

    @property
    def fft(self) -> FFTFilter:
        """What transforms take it for."""
        return FFTFilter(None, None, self.values, self.size, 1)

    def __getitem__(self, channels: slice) -> Spectrum:
        """That of some of the channels."""
        return replace(self, values=self.values[channels])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.numel() * self.values.element_size()


def spectrum(
    k: Tensor,
    length: int,
    k_reverse: Tensor | None = None,
    reverse_lag: Literal[0, 1] = 1,
    method: Literal["fft", "dft"] = "fft",
) -> Spectrum:
    """The spectrum of a filter, made once for many inputs of up to ``length`` positions.

    Raises ``ValueError`` for another method, filters that ``long_conv`` refuses, and a length below 1.
    """
    check_choices(method, ("fft", "dft"), reverse_lag, None, None)
    check_filters(None, k, k_reverse)
    if length < 1:
        raise ValueError(f"a spectrum is for inputs of at least 1 position, got a length of {length}")
    k, k_reverse = seen(k.detach(), k_reverse if k_reverse is None else k_reverse.detach(), length, reverse_lag)
    if method == "dft":
        radices = dft_radices(length + reach(k, k_reverse, reverse_lag))
        with full_precision(k.device):
            dft = RealDFT(radices, k)
            return Spectrum(dft.filter(wrapped(k, k_reverse, dft.size, reverse_lag)), dft.size, length, radices)
    held = FFTFilter.of(k, k_reverse, length, reverse_lag)
    return Spectrum(held.spectrum(slice(None), k.dtype), held.size, length)


def long_conv(
    u: Tensor,
    k: Tensor | Spectrum,
    k_reverse: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    reverse_lag: Literal[0, 1] = 1,
    method: Method = "auto",
    channels: int | None = None,
    block: int | None = None,
    operand: torch.dtype | None = None,
) -> Tensor:
    """See the module's docstring; -> (B, D, L) in the type of u.

    ``before`` and ``after`` (B, D, L) gate: y = after * conv(before * u), multiplied while a piece is at hand.
    ``reverse_lag=0`` is the official Hyena code's two-sided form, whose reverse filter begins at u[t], so that lag 0 counts twice.
    ``channels`` goes through the transforms at once (default: as many as fit the cache on a CPU, all on a GPU). ``block`` cuts a long
    input into pieces of so many positions (overlap-add), which saves time where the filter is much shorter than a piece or about as long;
    for one as long as the input it costs memory instead.
    ``operand`` is the type in which the dft method multiplies numbers, filters excepted (default: that of the sums). Measured root mean
    square errors, as shares of the output's, at 1,024 and 8,192 positions: float32 4e-7, float16 6e-4 and 8e-4, bfloat16 5e-3 and 7e-3.
    Raises ``ValueError`` for shapes that do not fit, filters in half precision, and an input longer than a ``Spectrum`` was made for.
    """
    check_choices(method, get_args(Method), reverse_lag, channels, block)
    by_dft = bool(k.radices) if isinstance(k, Spectrum) else method == "dft" and block is None
    check_operand(operand, by_dft)
    if isinstance(k, Spectrum):
        check_inputs(u, k.values.shape[0], skip, (before, after))
        if block is not None or method not in ("auto", "dft" if by_dft else "fft"):
            raise ValueError("a spectrum has its method already, and takes whole inputs: leave out method and block")
        check_spectrum(u, k, k_reverse)
        if not by_dft:
            return fft_conv(u, k.fft, skip, before, after, channels)
    else:
        check_filters(u, k, k_reverse)
        check_inputs(u, k.shape[0], skip, (before, after))
        if u.numel() == 0:
            return torch.zeros_like(u)
        k = k if k.shape[1] else F.pad(k, (0, 1))  # no tap is a tap of zero
        k, k_reverse = seen(k, k_reverse, u.shape[-1], reverse_lag)
        if method == "auto":
            method = fastest(u, k, k_reverse)
        if method == "fft" and block is None:
            return fft_conv(u, FFTFilter.of(k, k_reverse, u.shape[-1], reverse_lag), skip, before, after, channels)
    dtype = at_least_float32(u.dtype)
    w = u.to(dtype) if before is None else u.to(dtype) * before
    with full_precision(u.device):
        if isinstance(k, Spectrum):
            y = dft_conv(w, k.values, RealDFT(k.radices, w, operand))
        elif block is not None:
            y = _overlap_add(w, k, k_reverse, reverse_lag, block)
        elif method == "dft":
            dft = RealDFT(dft_radices(u.shape[-1] + reach(k, k_reverse, reverse_lag)), w)
            values = dft.filter(wrapped(k, k_reverse, dft.size, reverse_lag).to(dtype))
            y = dft_conv(w, values, dft if operand is None else RealDFT(dft.radices, w, operand))
        else:
            y = _by_sums(w, k, k_reverse, reverse_lag)
    y = y if skip is None else y + skip.unsqueeze(-1) * w
    return (y if after is None else y * after).to(u.dtype)


def long_conv_direct(
    u: Tensor, k: Tensor, k_reverse: Tensor | None = None, skip: Tensor | None = None, *, reverse_lag: Literal[0, 1] = 1
) -> Tensor:
    """Slow twin of ``long_conv``: the sums as they are written, lag by lag."""
    length = u.shape[-1]
    y = torch.zeros_like(u) if skip is None else skip.unsqueeze(-1) * u
    for j in range(min(k.shape[1], length)):
        y = y + k[:, j : j + 1] * F.pad(u, (j, 0))[..., :length]
    for j in range(0 if k_reverse is None else k_reverse.shape[1]):
        assert k_reverse is not None
        y = y + k_reverse[:, j : j + 1] * F.pad(u, (0, j + reverse_lag))[..., j + reverse_lag :]
    return y


def check_spectrum(u: Tensor, k: Spectrum, k_reverse: Tensor | None) -> None:
    """A spectrum of u's digits, and of all that the filter is, for as many positions."""
    if u.dtype == torch.float64 and k.values.dtype in (torch.complex64, torch.float32):
        raise ValueError("a spectrum of filters in float32 would cut u's digits in float64: make it of filters in float64")
    if k_reverse is not None or u.shape[-1] > k.length:
        what = "a reverse filter beside it" if k_reverse is not None else f"{u.shape[-1]} positions"
        raise ValueError(f"a spectrum made for up to {k.length} positions cannot take {what}: make another, with spectrum() or prepare()")


def fastest(u: Tensor, k: Tensor, k_reverse: Tensor | None) -> Method:
    """What ``auto`` stands for."""
    taps = k.shape[1] if k_reverse is None else u.shape[-1]
    few = taps <= SHORT_TAPS or u.shape[-1] <= SHORT_LENGTH
    return "direct" if few and u.device.type == "cpu" else "fft"


def _by_sums(w: Tensor, k: Tensor, k_reverse: Tensor | None, reverse_lag: int) -> Tensor:
    """Shifted sums of a few causal taps, else a product with each channel's Toeplitz matrix."""
    if k_reverse is None and k.shape[1] <= SHORT_TAPS:
        return short_conv(w, k)
    length = w.shape[-1]
    taps = F.pad(k.to(w.dtype), (length - 1, length - k.shape[1]))  # lag j at length - 1 + j
    if k_reverse is not None:
        reverse = F.pad(k_reverse.to(w.dtype), (reverse_lag, length - reverse_lag - k_reverse.shape[1])).flip(1)  # lag -j at length - 1 - j
        taps = taps + F.pad(reverse, (0, length - 1))
    toeplitz = taps.unfold(-1, length, 1).flip(1)  # row s: taps from lag -s on
    return torch.bmm(w.transpose(0, 1), toeplitz).transpose(0, 1)


def _overlap_add(w: Tensor, k: Tensor, k_reverse: Tensor | None, reverse_lag: int, block: int) -> Tensor:
    """Pieces of ``block`` positions, each with the whole of what the filter makes of it, laid over each other."""
    length, ahead = w.shape[-1], 0
    if k_reverse is not None and k_reverse.shape[1]:  # one causal filter that comes ``ahead`` positions early
        ahead = k_reverse.shape[1] - 1 + reverse_lag
        k = F.pad(k_reverse.flip(1), (0, ahead + k.shape[1] - k_reverse.shape[1])) + F.pad(k, (ahead, 0))
    tail = k.shape[1] - 1
    blocks = F.pad(w, (0, -length % block)).unflatten(-1, (-1, block))  # (B, D, N, block)
    batch, dim, count, _ = blocks.shape
    whole = F.pad(blocks.transpose(1, 2).flatten(0, 1), (0, tail))
    y = fft_conv(whole, FFTFilter(k, None, None, fast_size(block + tail), 1), None, None, None, None).unflatten(0, (batch, count))
    total = w.new_zeros(batch, dim, count * block + tail)
    for index in range(count):
        total[..., index * block : (index + 1) * block + tail] += y[:, index]
    return total[..., ahead : ahead + length]
