"""Long convolutions: filters as long as the input, causal or two-sided, and never circular.

    y[t] = skip u[t] + sum over j of k[j] u[t - j] + sum over j of k_reverse[j] u[t + 1 + j]

Shapes: u (B, D, L), k and k_reverse (D, K) of any length, skip (D,); B batch, D channels, L positions. Source: Hyena (arXiv 2302.10866),
section 3.3; the two-sided form is Monarch Mixer's, whose reverse filter begins at lag 1. The three methods give the same sums:

    fft      L log L; the filter and the input padded to their joint length (``ops/fft_conv.py``).
    dft      L^1.5; the same transforms as matrix products (``ops/dft_conv.py``), for devices with fast matrix units.
    direct   L K; a product with each channel's Toeplitz matrix, or shifted sums for a few taps.

All sums run in float32 or better, whatever the type of u and the autocast; filters in half precision are an error, because a transform
needs their digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32, full_precision
from subquad.ops.dft_conv import RealDFT, dft_conv, dft_radices
from subquad.ops.fft_conv import FFTFilter, farthest_lag, fft_conv, on_circle, reachable_taps
from subquad.ops.short_conv import short_conv

TransformMethod = Literal["fft", "dft"]
Method = Literal["auto", "fft", "dft", "direct"]

SHORT_TAPS = 16  # up to here shifted sums are the fastest (benchmarks/long_conv.py has the crossovers)
SHORT_LENGTH = 64  # up to here products with Toeplitz matrices are

HALF_PRECISION = (torch.float16, torch.bfloat16)
FLOATS = (*HALF_PRECISION, torch.float32, torch.float64)


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
    def method(self) -> TransformMethod:
        """The method that it is for."""
        return "dft" if self.radices else "fft"

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes

    def as_filter(self) -> FFTFilter:
        """The same for ``ops/fft_conv.py``."""
        return FFTFilter(None, None, self.values, self.size)


def spectrum(k: Tensor, length: int, k_reverse: Tensor | None = None, method: TransformMethod = "fft") -> Spectrum:
    """The spectrum of a filter, made once for many inputs of up to ``length`` positions.

    Raises ``ValueError`` for another method, filters that ``long_conv`` refuses, and a length below 1.
    """
    _check_method(method, get_args(TransformMethod))
    check_filters(None, k, k_reverse)
    if length < 1:
        raise ValueError(f"a spectrum is for inputs of at least 1 position, got a length of {length}")
    k, k_reverse = reachable_taps(k.detach(), None if k_reverse is None else k_reverse.detach(), length)
    if method == "dft":
        dft, values = _dft_filter(k, k_reverse, length, k.dtype)
        return Spectrum(values, dft.size, length, dft.radices)
    filter_ = FFTFilter.of(k, k_reverse, length)
    return Spectrum(filter_.spectrum(slice(None), k.dtype), filter_.size, length)


def long_conv(
    u: Tensor,
    k: Tensor | Spectrum,
    k_reverse: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    method: Method = "auto",
) -> Tensor:
    """See the module's docstring; -> (B, D, L) in the type of u.

    ``before`` and ``after`` (B, D, L) gate: y = after * conv(before * u), multiplied while a piece is at hand.
    Raises ``ValueError`` for shapes that do not fit, filters in half precision, and an input longer than a ``Spectrum`` was made for.
    """
    _check_method(method, get_args(Method))
    if isinstance(k, Spectrum):
        check_inputs(u, k.values.shape[0], skip, (before, after))
        check_spectrum(u, k, k_reverse)
        if method not in ("auto", k.method):
            raise ValueError(f"the spectrum was made for the method {k.method!r}, got method={method!r}: leave out method")
        if k.method == "fft":
            return fft_conv(u, k.as_filter(), skip, before, after)
        return _gated(u, skip, before, after, lambda w: dft_conv(w, k.values, RealDFT(k.radices, w)))
    check_filters(u, k, k_reverse)
    check_inputs(u, k.shape[0], skip, (before, after))
    if u.numel() == 0:
        return torch.zeros_like(u)
    taps = k if k.shape[1] else F.pad(k, (0, 1))  # no tap is a tap of zero
    taps, reverse = reachable_taps(taps, k_reverse, u.shape[-1])
    chosen = fastest_method(u, taps, reverse) if method == "auto" else method
    if chosen == "fft":
        return fft_conv(u, FFTFilter.of(taps, reverse, u.shape[-1]), skip, before, after)
    conv = _by_dft if chosen == "dft" else _by_sums
    return _gated(u, skip, before, after, lambda w: conv(w, taps, reverse))


def long_conv_direct(u: Tensor, k: Tensor, k_reverse: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """Slow twin of ``long_conv``: the sums as they are written, lag by lag."""
    length = u.shape[-1]
    y = torch.zeros_like(u) if skip is None else skip.unsqueeze(-1) * u
    for j in range(min(k.shape[1], length)):
        y = y + k[:, j : j + 1] * F.pad(u, (j, 0))[..., :length]
    for j in range(0 if k_reverse is None else k_reverse.shape[1]):
        assert k_reverse is not None
        y = y + k_reverse[:, j : j + 1] * F.pad(u, (0, j + 1))[..., j + 1 :]
    return y


def fastest_method(u: Tensor, k: Tensor, k_reverse: Tensor | None) -> Method:
    """What ``auto`` stands for."""
    taps = k.shape[1] if k_reverse is None else u.shape[-1]
    few = taps <= SHORT_TAPS or u.shape[-1] <= SHORT_LENGTH
    return "direct" if few and u.device.type == "cpu" else "fft"


def check_filters(u: Tensor | None, k: Tensor, k_reverse: Tensor | None) -> None:
    """Raises ``ValueError`` for filters in less than float32, and unless there is one for each channel of u, as many on both sides."""
    for name, filter_ in (("k", k), ("k_reverse", k_reverse)):
        if filter_ is None:
            continue
        if filter_.dtype not in FLOATS:
            raise ValueError(f"{name} must be of real floating-point numbers, got {filter_.dtype}")
        if filter_.dtype in HALF_PRECISION:
            raise ValueError(
                f"{name} is in {filter_.dtype}, too little precision for a transform: keep filters in float32; u may be in half precision"
            )
        channels = k.shape[0] if u is None or u.ndim != 3 else u.shape[1]
        if filter_.ndim != 2 or filter_.shape[0] != channels or (u is not None and u.ndim != 3):
            shape = None if u is None else tuple(u.shape)
            raise ValueError(f"u must be (B, D, L) and {name} (D, K), got {shape} and {tuple(filter_.shape)}: give one filter per channel")


def check_inputs(u: Tensor, channels: int, skip: Tensor | None, gates: Sequence[Tensor | None]) -> None:
    """Raises ``ValueError`` unless u (B, ``channels``, L) is of real numbers, skip has one a channel, and gates have u's shape."""
    if u.ndim != 3 or u.shape[1] != channels or not u.is_floating_point():
        raise ValueError(f"u must be (B, {channels}, L), of floating-point numbers, got {tuple(u.shape)} of {u.dtype}")
    if skip is not None and skip.shape != (channels,):
        raise ValueError(f"skip must be ({channels},), one number per channel, got {tuple(skip.shape)}")
    for gate in gates:
        if gate is not None and gate.shape != u.shape:
            raise ValueError(f"a gate must have the shape of u, {tuple(u.shape)}, got {tuple(gate.shape)}: expand it")


def check_spectrum(u: Tensor, k: Spectrum, k_reverse: Tensor | None) -> None:
    """Raises ``ValueError`` unless a spectrum has the digits of u, is for as many positions, and is the whole filter."""
    if u.dtype == torch.float64 and k.values.dtype in (torch.complex64, torch.float32):
        raise ValueError("a spectrum of float32 filters has too little precision for u in float64: make it from filters in float64")
    if k_reverse is not None or u.shape[-1] > k.length:
        what = "a reverse filter beside it" if k_reverse is not None else f"{u.shape[-1]} positions"
        raise ValueError(f"a spectrum made for up to {k.length} positions cannot take {what}: make another, with spectrum() or prepare()")


def _check_method(method: str, known: Sequence[str]) -> None:
    if method not in known:
        raise ValueError(f"method must be one of {', '.join(known)}, got {method!r}")


def _gated(u: Tensor, skip: Tensor | None, before: Tensor | None, after: Tensor | None, conv: Callable[[Tensor], Tensor]) -> Tensor:
    """after * (conv(before * u) + skip before * u), in float32 or better, in the type of u at last."""
    w = u.to(at_least_float32(u.dtype))
    w = w if before is None else w * before
    with full_precision(u.device):
        y = conv(w)
    y = y if skip is None else y + skip.unsqueeze(-1) * w
    return (y if after is None else y * after).to(u.dtype)


def _dft_filter(k: Tensor, k_reverse: Tensor | None, length: int, dtype: torch.dtype) -> tuple[RealDFT, Tensor]:
    """The transform for inputs of that length, and what the filter is to it."""
    dft = RealDFT(dft_radices(length + farthest_lag(k, k_reverse)), k.to(dtype))
    return dft, dft.filter(on_circle(k, k_reverse, dft.size).to(dtype))


def _by_dft(w: Tensor, k: Tensor, k_reverse: Tensor | None) -> Tensor:
    dft, values = _dft_filter(k, k_reverse, w.shape[-1], w.dtype)
    return dft_conv(w, values, dft)


def _by_sums(w: Tensor, k: Tensor, k_reverse: Tensor | None) -> Tensor:
    """Shifted sums of a few causal taps, else a product with each channel's Toeplitz matrix."""
    if k_reverse is None and k.shape[1] <= SHORT_TAPS:
        return short_conv(w, k)
    length = w.shape[-1]
    taps = F.pad(k.to(w.dtype), (length - 1, length - k.shape[1]))  # (D, 2 L - 1), lag j at length - 1 + j
    if k_reverse is not None:
        reverse = F.pad(k_reverse.to(w.dtype), (1, length - 1 - k_reverse.shape[1])).flip(1)  # lag -j at length - 1 - j
        taps = taps + F.pad(reverse, (0, length - 1))
    toeplitz = taps.unfold(-1, length, 1).flip(1)  # (D, L, L), row s: taps from lag -s on
    return torch.bmm(w.transpose(0, 1), toeplitz).transpose(0, 1)
