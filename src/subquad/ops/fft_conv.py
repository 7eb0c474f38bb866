"""Long convolutions by FFT, a piece of the channels at a time, so that intermediate values stay in the processor's cache.

A filter is placed on a circle of taps that is longer than input and filter together, so that nothing wraps around onto the output: lag j
at tap j, lag -j at tap size - j. Shapes: u (B, D, L), k (D, K); B batch, D channels, L positions. ``ops/long_conv.py`` has the formula.
Backward passes recompute the spectra, so that only real tensors are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.ops.autocast import at_least_float32
from subquad.ops.short_conv import channel_dots

CACHED = 1 << 19  # numbers in a piece of channels that goes through the transforms at once on a CPU


@dataclass(frozen=True)
class FFTFilter:
    """Taps ``k`` (D, K), and ``k_reverse`` if the filter is two-sided, for a circle of ``size``; or its spectrum, ``values``."""

    k: Tensor | None
    k_reverse: Tensor | None
    values: Tensor | None
    size: int

    @classmethod
    def of(cls, k: Tensor, k_reverse: Tensor | None, length: int) -> FFTFilter:
        """For inputs of that length; what they cannot reach of the filter is left out."""
        k, k_reverse = reachable_taps(k, k_reverse, length)
        return cls(k, k_reverse, None, fast_size(length + farthest_lag(k, k_reverse)))

    def spectrum(self, piece: slice, dtype: torch.dtype) -> Tensor:
        """That of some channels, complex, (D, size / 2 + 1); the circle is real of type ``dtype``."""
        if self.values is not None:
            return self.values[piece]
        assert self.k is not None
        reverse = None if self.k_reverse is None else self.k_reverse[piece]
        return torch.fft.rfft(on_circle(self.k[piece], reverse, self.size).to(dtype), self.size)

    def put_gradients(self, dk: Tensor | None, dreverse: Tensor | None, piece: slice, w: Tensor, g_spectrum: Tensor) -> None:
        """The gradients of some channels' taps, from the input on a circle and the spectrum of the output's gradient."""
        if dk is None and dreverse is None:
            return
        assert self.k is not None
        product = torch.fft.rfft(w).conj_physical_().mul_(g_spectrum)  # (B, D, size / 2 + 1)
        circle = torch.fft.irfft(product[0] if len(product) == 1 else product.sum(0), self.size)  # (D, size)
        if dk is not None:
            dk[piece] = circle[:, : self.k.shape[1]]
        if dreverse is not None:
            assert self.k_reverse is not None
            dreverse[piece] = circle.flip(1)[:, : self.k_reverse.shape[1]]  # lag -1 is the last tap


def fft_conv(u: Tensor, filter_: FFTFilter, skip: Tensor | None, before: Tensor | None, after: Tensor | None) -> Tensor:
    """after * (conv(before * u) + skip * before * u), piece by piece; sums in float32 or better, the result in the type of u."""
    pieces = channel_pieces(u, filter_.size)
    return cast(Tensor, _FFTConv.apply(u, filter_.k, filter_.k_reverse, filter_.values, skip, before, after, filter_.size, pieces))


def fast_size(least: int) -> int:
    """The smallest even number from ``least`` on whose transform is fast: a power of two times 1, 3, 5, 9 or 15."""
    return min(odd << max((-(-least // odd) - 1).bit_length(), 1) for odd in (1, 3, 5, 9, 15))


def reachable_taps(k: Tensor, k_reverse: Tensor | None, length: int) -> tuple[Tensor, Tensor | None]:
    """The taps that an input of that length can reach."""
    return k[:, :length], None if k_reverse is None else k_reverse[:, : length - 1]


def farthest_lag(k: Tensor, k_reverse: Tensor | None) -> int:
    """That of either filter."""
    return max(k.shape[1] - 1, 0 if k_reverse is None else k_reverse.shape[1], 0)


def on_circle(k: Tensor, k_reverse: Tensor | None, size: int) -> Tensor:
    """Both filters on a circle of ``size`` taps, (D, size). Without a reverse filter k itself, unpadded."""
    if k_reverse is None:
        return k
    circle = F.pad(k, (0, size - k.shape[1]))
    if taps := k_reverse.shape[1]:
        circle[:, size - taps :] += k_reverse.flip(1)
    return circle


def channel_pieces(u: Tensor, size: int) -> list[slice]:
    """Pieces of the channels of u (B, ..., D, L) whose circles fit a CPU's cache; all at once on other devices."""
    count = u.shape[-2]
    at_once = max(1, CACHED // (u.shape[0] * size)) if u.device.type == "cpu" else count
    return [slice(first, min(first + at_once, count)) for first in range(0, count, at_once)]


class _FFTConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        k: Tensor | None,
        k_reverse: Tensor | None,
        values: Tensor | None,
        skip: Tensor | None,
        before: Tensor | None,
        after: Tensor | None,
        size: int,
        pieces: list[slice],
    ) -> Tensor:
        ctx.size, ctx.pieces = size, pieces
        filter_ = FFTFilter(k, k_reverse, values, size)
        keeps = after is not None and ctx.needs_input_grad[6]
        length, dtype = u.shape[-1], at_least_float32(u.dtype)
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        ungated = torch.empty_like(y) if keeps else None
        circles = u.new_zeros(u.shape[0], pieces[0].stop, size, dtype=dtype)  # (B, channels of a piece, size), serves all pieces
        for piece in pieces:
            w = _put_on_circles(circles, u, before, piece)
            out = torch.fft.irfft(torch.fft.rfft(w).mul_(filter_.spectrum(piece, dtype)), size)[..., :length]
            if skip is not None:
                out.addcmul_(skip[piece].to(dtype).unsqueeze(-1), w[..., :length])
            if ungated is not None:
                ungated[:, piece] = out
            _put(y, piece, out, after)
        ctx.save_for_backward(u, k, k_reverse, values, skip, before, after, ungated)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, k, k_reverse, values, skip, before, after, ungated = ctx.saved_tensors
        gradient, filter_ = gradients[0], FFTFilter(k, k_reverse, values, ctx.size)
        needs_u, needs_k, needs_reverse, _, needs_skip, needs_before, needs_after = ctx.needs_input_grad[:7]
        length, dtype = u.shape[-1], at_least_float32(u.dtype)
        du = torch.empty_like(u, memory_format=torch.contiguous_format) if needs_u else None
        dbefore = torch.empty_like(before, memory_format=torch.contiguous_format) if needs_before else None
        dafter = (gradient * ungated).to(after.dtype) if needs_after else None
        dk = torch.empty_like(k) if needs_k else None
        dreverse = torch.empty_like(k_reverse) if needs_reverse else None
        dskip = torch.empty_like(skip) if needs_skip else None
        circles = [u.new_zeros(u.shape[0], ctx.pieces[0].stop, ctx.size, dtype=dtype) for _ in range(2)]
        for piece in ctx.pieces:
            g_circle = _put_on_circles(circles[0], gradient, after, piece)  # the gradient of the convolution's output
            g, g_spectrum = g_circle[..., :length], torch.fft.rfft(g_circle)
            if needs_k or needs_reverse or needs_skip:
                w = _put_on_circles(circles[1], u, before, piece)
                if dskip is not None:
                    dskip[piece] = channel_dots(g, w[..., :length]).to(dskip.dtype)
                filter_.put_gradients(dk, dreverse, piece, w, g_spectrum)
            if du is not None or dbefore is not None:
                dw = torch.fft.irfft(g_spectrum.mul_(filter_.spectrum(piece, dtype).conj()), ctx.size)[..., :length]
                if skip is not None:
                    dw.addcmul_(skip[piece].to(dtype).unsqueeze(-1), g)
                if du is not None:
                    _put(du, piece, dw, before)
                if dbefore is not None:
                    _put(dbefore, piece, dw, u)
        return du, dk, dreverse, None, dskip, dbefore, dafter, None, None


def _put_on_circles(circles: Tensor, u: Tensor, gate: Tensor | None, piece: slice) -> Tensor:
    """A piece of channels of gate * u, at the beginning of circles of zeros that serve all pieces; multiplied as it is put there."""
    rows = circles[:, : piece.stop - piece.start]
    _put(rows[..., : u.shape[-1]], slice(None), u[:, piece], None if gate is None else gate[:, piece])
    return rows


def _put(target: Tensor, piece: slice, x: Tensor, gate: Tensor | None) -> None:
    """``target[:, piece] = x * gate[:, piece]``, in one pass where the types are the same."""
    place = target[:, piece]
    if gate is None:
        place.copy_(x)
    else:
        multiply_into(place, x, gate[:, piece])


def multiply_into(out: Tensor, x: Tensor, y: Tensor) -> None:
    """``out = x * y``, in one pass where the types are the same, else in float32 or better."""
    if out.dtype == x.dtype == y.dtype:
        torch.mul(x, y, out=out)
    else:
        out.copy_(x.to(at_least_float32(x.dtype)) * y)
