"""Long convolutions by FFT, a piece of the channels at a time, so that what lies between the transforms stays in the processor's cache.

A filter is laid on a circle of taps that is longer than input and filter together, so that nothing wraps around onto what is kept: lag j
at tap j, lag -j at tap size - j. Shapes: u (B, D, L), k (D, K); B batch, D channels, L positions. ``ops/long_conv.py`` has the formula.
Backward passes make the spectra anew, so that only real tensors are kept.
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
    reverse_lag: int

    @classmethod
    def of(cls, k: Tensor, k_reverse: Tensor | None, length: int, reverse_lag: int) -> FFTFilter:
        """For inputs of that length; what they cannot reach of the filter is left out."""
        k, k_reverse = seen(k, k_reverse, length, reverse_lag)
        return cls(k, k_reverse, None, fast_size(length + reach(k, k_reverse, reverse_lag)), reverse_lag)

    def spectrum(self, piece: slice, dtype: torch.dtype) -> Tensor:
        """That of some channels, complex, (D, size / 2 + 1); the circle is real of type ``dtype``."""
        if self.values is not None:
            return self.values[piece]
        assert self.k is not None
        reverse = None if self.k_reverse is None else self.k_reverse[piece]
        return torch.fft.rfft(wrapped(self.k[piece], reverse, self.size, self.reverse_lag).to(dtype), self.size)

    def put_gradients(self, dk: Tensor | None, dreverse: Tensor | None, piece: slice, w: Tensor, turned: Tensor) -> None:
        """The gradients of some channels' taps, from the padded input and the spectrum of the output's gradient."""
        if dk is None and dreverse is None:
            return
        assert self.k is not None
        product = torch.fft.rfft(w).conj_physical_().mul_(turned)
        circle = torch.fft.irfft(product[0] if len(product) == 1 else product.sum(0), self.size)
        of_k, of_reverse = unwrapped(circle, self.k.shape[1], None if self.k_reverse is None else self.k_reverse.shape[1], self.reverse_lag)
        if dk is not None:
            dk[piece] = of_k
        if dreverse is not None and of_reverse is not None:
            dreverse[piece] = of_reverse


def fft_conv(u: Tensor, held: FFTFilter, skip: Tensor | None, before: Tensor | None, after: Tensor | None, channels: int | None) -> Tensor:
    """after * (conv(before * u) + skip * before * u), ``channels`` at a time; sums in float32 or better, the result in the type of u."""
    pieces = channel_pieces(u, held.size) if channels is None else _cut(u.shape[1], channels)
    return cast(Tensor, _FFTConv.apply(u, held.k, held.k_reverse, held.values, skip, before, after, held.size, held.reverse_lag, pieces))


def fast_size(least: int) -> int:
    """The smallest even number from ``least`` on whose transform is fast: a power of two times 1, 3, 5, 9 or 15."""
    return min(odd << max((-(-least // odd) - 1).bit_length(), 1) for odd in (1, 3, 5, 9, 15))


def seen(k: Tensor, k_reverse: Tensor | None, length: int, reverse_lag: int) -> tuple[Tensor, Tensor | None]:
    """The taps that an input of that length can reach."""
    return k[:, :length], None if k_reverse is None else k_reverse[:, : length - reverse_lag]


def reach(k: Tensor, k_reverse: Tensor | None, reverse_lag: int) -> int:
    """The farthest lag of either filter."""
    return max(k.shape[1] - 1, 0 if k_reverse is None else k_reverse.shape[1] - 1 + reverse_lag, 0)


def wrapped(k: Tensor, k_reverse: Tensor | None, size: int, reverse_lag: int) -> Tensor:
    """Both filters on a circle of ``size`` taps. Without a reverse filter k itself, unpadded."""
    if k_reverse is None:
        return k
    circle = F.pad(k, (0, size - k.shape[1]))
    taps = k_reverse.shape[1]
    if reverse_lag == 0 and taps:
        circle[:, 0] += k_reverse[:, 0]
        circle[:, size - taps + 1 :] += k_reverse[:, 1:].flip(1)
    elif taps:
        circle[:, size - taps :] += k_reverse.flip(1)
    return circle


def unwrapped(circle: Tensor, taps: int, reverse_taps: int | None, reverse_lag: int) -> tuple[Tensor, Tensor | None]:
    """The transpose of ``wrapped``: gradients of both filters from that of the circle."""
    if reverse_taps is None:
        return circle[:, :taps], None
    turned = torch.cat((circle[:, :1], circle.flip(1)), 1)  # lag -j at j
    return circle[:, :taps], turned[:, reverse_lag : reverse_lag + reverse_taps]


def channel_pieces(u: Tensor, size: int) -> list[slice]:
    """Pieces of the channels of u (B, ..., D, L) whose circles fit a CPU's cache; all at once on other devices."""
    count = u.shape[-2]
    return _cut(count, max(1, CACHED // (u.shape[0] * size)) if u.device.type == "cpu" else count)


def _cut(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


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
        reverse_lag: int,
        pieces: list[slice],
    ) -> Tensor:
        ctx.size, ctx.reverse_lag, ctx.pieces = size, reverse_lag, pieces
        held = FFTFilter(k, k_reverse, values, size, reverse_lag)
        keeps = after is not None and ctx.needs_input_grad[6]
        length, dtype = u.shape[-1], at_least_float32(u.dtype)
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        ungated = torch.empty_like(y) if keeps else None
        circles = u.new_zeros(u.shape[0], pieces[0].stop, size, dtype=dtype)
        for piece in pieces:
            w = _laid(circles, u, before, piece)
            out = torch.fft.irfft(torch.fft.rfft(w).mul_(held.spectrum(piece, dtype)), size)[..., :length]
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
        gradient, held = gradients[0], FFTFilter(k, k_reverse, values, ctx.size, ctx.reverse_lag)
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
            whole = _laid(circles[0], gradient, after, piece)
            g, turned = whole[..., :length], torch.fft.rfft(whole)
            if needs_k or needs_reverse or needs_skip:
                w = _laid(circles[1], u, before, piece)
                if dskip is not None:
                    dskip[piece] = channel_dots(g, w[..., :length]).to(dskip.dtype)
                held.put_gradients(dk, dreverse, piece, w, turned)
            if du is not None or dbefore is not None:
                dw = torch.fft.irfft(turned.mul_(held.spectrum(piece, dtype).conj()), ctx.size)[..., :length]
                if skip is not None:
                    dw.addcmul_(skip[piece].to(dtype).unsqueeze(-1), g)
                if du is not None:
                    _put(du, piece, dw, before)
                if dbefore is not None:
                    _put(dbefore, piece, dw, u)
        return du, dk, dreverse, None, dskip, dbefore, dafter, None, None, None


def _laid(circles: Tensor, u: Tensor, gate: Tensor | None, piece: slice) -> Tensor:
    """A piece of channels of gate * u, at the beginning of circles of zeros that serve all pieces; multiplied as it is put there."""
    rows = circles[:, : piece.stop - piece.start]
    _put(rows[..., : u.shape[-1]], slice(None), u[:, piece], None if gate is None else gate[:, piece])
    return rows


def _put(target: Tensor, piece: slice, x: Tensor, gate: Tensor | None) -> None:
    """``target[:, piece] = x * gate[:, piece]``, in one pass where the types are the same."""
    place = target[:, piece]
    if gate is None:
        place.copy_(x)
    elif place.dtype == x.dtype == gate.dtype:
        torch.mul(x, gate[:, piece], out=place)
    else:
        place.copy_(x.to(at_least_float32(x.dtype)) * gate[:, piece])
