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
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.ops.conv_arguments import check_choices, check_filters, check_inputs
from subquad.ops.dft_conv import RealDFT, dft_conv, dft_radices
from subquad.ops.precision import full_precision
from subquad.ops.short_conv import channel_dots, short_conv

Method = Literal["auto", "fft", "dft", "direct"]

SHORT_TAPS = 16  # up to here shifted sums are the fastest (benchmarks/long_conv.py has the crossovers)
SHORT_LENGTH = 64  # up to here products with Toeplitz matrices are
CACHED = 1 << 19  # numbers in a piece of channels that goes through the transforms at once on a CPU


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
    """The spectrum of a filter, made once for many inputs of up to ``length`` positions."""
    check_filters(None, k, k_reverse)
    if length < 1:
        raise ValueError(f"a spectrum is for inputs of at least 1 position, got a length of {length}")
    k, k_reverse = _seen(k.detach(), k_reverse if k_reverse is None else k_reverse.detach(), length, reverse_lag)
    if method == "dft":
        radices = dft_radices(length + _reach(k, k_reverse, reverse_lag))
        with full_precision(k.device):
            dft = RealDFT(radices, k)
            return Spectrum(dft.filter(_wrapped(k, k_reverse, dft.size, reverse_lag)), dft.size, length, radices)
    size = _fft_size(length, k, k_reverse, reverse_lag)
    return Spectrum(torch.fft.rfft(_wrapped(k, k_reverse, size, reverse_lag), size), size, length)


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
    if operand is not None and not by_dft:
        raise ValueError(f"operand={operand} is for the dft method alone: set method='dft', or leave it out")
    if isinstance(k, Spectrum):
        check_inputs(u, k.values.shape[0], skip, (before, after))
        if block is not None or method not in ("auto", "dft" if by_dft else "fft"):
            raise ValueError("a spectrum has its method already, and takes whole inputs: leave out method and block")
        if u.dtype == torch.float64 and k.values.dtype in (torch.complex64, torch.float32):
            raise ValueError("a spectrum of filters in float32 would cut u's digits in float64: make it of filters in float64")
        if k_reverse is not None or u.shape[-1] > k.length:
            what = "a reverse filter beside it" if k_reverse is not None else f"{u.shape[-1]} positions"
            raise ValueError(f"a spectrum made for up to {k.length} positions cannot take {what}: make another with spectrum()")
        if not by_dft:
            return _by_fft(u, None, None, k, skip, before, after, reverse_lag, channels)
    else:
        check_filters(u, k, k_reverse)
        check_inputs(u, k.shape[0], skip, (before, after))
        if u.numel() == 0:
            return torch.zeros_like(u)
        k = k if k.shape[1] else F.pad(k, (0, 1))  # no tap is a tap of zero
        k, k_reverse = _seen(k, k_reverse, u.shape[-1], reverse_lag)
        if method == "auto":
            method = _fastest(u, k, k_reverse)
        if method == "fft" and block is None:
            return _by_fft(u, k, k_reverse, None, skip, before, after, reverse_lag, channels)
    dtype = torch.promote_types(u.dtype, torch.float32)
    w = u.to(dtype) if before is None else u.to(dtype) * before
    with full_precision(u.device):
        if isinstance(k, Spectrum):
            y = dft_conv(w, k.values, RealDFT(k.radices, w, operand))
        elif block is not None:
            y = _overlap_add(w, k, k_reverse, reverse_lag, block)
        elif method == "dft":
            dft = RealDFT(dft_radices(u.shape[-1] + _reach(k, k_reverse, reverse_lag)), w)
            values = dft.filter(_wrapped(k, k_reverse, dft.size, reverse_lag).to(dtype))
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


def _fastest(u: Tensor, k: Tensor, k_reverse: Tensor | None) -> Method:
    taps = k.shape[1] if k_reverse is None else u.shape[-1]
    few = taps <= SHORT_TAPS or u.shape[-1] <= SHORT_LENGTH
    return "direct" if few and u.device.type == "cpu" else "fft"


def _seen(k: Tensor, k_reverse: Tensor | None, length: int, reverse_lag: int) -> tuple[Tensor, Tensor | None]:
    """The taps that an input of that length can reach."""
    return k[:, :length], None if k_reverse is None else k_reverse[:, : length - reverse_lag]


def fast_size(least: int) -> int:
    """The smallest even number from ``least`` on whose transform is fast: a power of two times 1, 3, 5, 9 or 15."""
    return min(odd << max((-(-least // odd) - 1).bit_length(), 1) for odd in (1, 3, 5, 9, 15))


def _fft_size(length: int, k: Tensor, k_reverse: Tensor | None, reverse_lag: int) -> int:
    """Long enough that nothing wraps around onto the first ``length`` outputs."""
    return fast_size(length + _reach(k, k_reverse, reverse_lag))


def _reach(k: Tensor, k_reverse: Tensor | None, reverse_lag: int) -> int:
    """The farthest lag of either filter."""
    return max(k.shape[1] - 1, 0 if k_reverse is None else k_reverse.shape[1] - 1 + reverse_lag, 0)


def _wrapped(k: Tensor, k_reverse: Tensor | None, size: int, reverse_lag: int) -> Tensor:
    """Both filters on a circle of ``size`` taps: lag j at j, lag -j at size - j. Without a reverse filter k itself, unpadded."""
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


def _unwrapped(circle: Tensor, taps: int, reverse_taps: int | None, reverse_lag: int) -> tuple[Tensor, Tensor | None]:
    """The transpose of ``_wrapped``: gradients of both filters from that of the circle."""
    if reverse_taps is None:
        return circle[:, :taps], None
    turned = torch.cat((circle[:, :1], circle.flip(1)), 1)  # lag -j at j
    return circle[:, :taps], turned[:, reverse_lag : reverse_lag + reverse_taps]


def _by_fft(
    u: Tensor,
    k: Tensor | None,
    k_reverse: Tensor | None,
    prepared: Spectrum | None,
    skip: Tensor | None,
    before: Tensor | None,
    after: Tensor | None,
    reverse_lag: int,
    channels: int | None,
) -> Tensor:
    if prepared is None:
        assert k is not None
        size, values = _fft_size(u.shape[-1], k, k_reverse, reverse_lag), None
    else:
        size, values = prepared.size, prepared.values
    if channels is None:
        channels = _cached_channels(u.shape[0], size) if u.device.type == "cpu" else u.shape[1]
    return cast(Tensor, _FFTConv.apply(u, k, k_reverse, values, skip, before, after, size, reverse_lag, channels))


class _FFTConv(torch.autograd.Function):
    """after * (conv(before * u) + skip * before * u), channels in pieces."""

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
        channels: int,
    ) -> Tensor:
        ctx.size, ctx.reverse_lag, ctx.channels = size, reverse_lag, channels
        keeps = after is not None and ctx.needs_input_grad[6]
        length, dtype = u.shape[-1], torch.promote_types(u.dtype, torch.float32)
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        ungated = torch.empty_like(y) if keeps else None
        padded = u.new_zeros(u.shape[0], min(channels, u.shape[1]), size, dtype=dtype)
        for piece in _pieces(u.shape[1], channels):
            w = _padded(padded, u, before, piece)
            product = torch.fft.rfft(w).mul_(_filter_piece(k, k_reverse, values, piece, size, reverse_lag, dtype))
            out = torch.fft.irfft(product, size)[..., :length]
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
        gradient, size, lag = gradients[0], ctx.size, ctx.reverse_lag
        needs_u, needs_k, needs_reverse, _, needs_skip, needs_before, needs_after = ctx.needs_input_grad[:7]
        length, dtype = u.shape[-1], torch.promote_types(u.dtype, torch.float32)
        du = torch.empty_like(u, memory_format=torch.contiguous_format) if needs_u else None
        dbefore = torch.empty_like(before, memory_format=torch.contiguous_format) if needs_before else None
        dafter = (gradient * ungated).to(after.dtype) if needs_after else None
        dk = torch.empty_like(k) if needs_k else None
        dreverse = torch.empty_like(k_reverse) if needs_reverse else None
        dskip = torch.empty_like(skip) if needs_skip else None
        padded = [u.new_zeros(u.shape[0], min(ctx.channels, u.shape[1]), size, dtype=dtype) for _ in range(2)]
        for piece in _pieces(u.shape[1], ctx.channels):
            whole = _padded(padded[0], gradient, after, piece)
            g, turned = whole[..., :length], torch.fft.rfft(whole)
            if needs_k or needs_reverse or needs_skip:
                w = _padded(padded[1], u, before, piece)
                if dskip is not None:
                    dskip[piece] = channel_dots(g, w[..., :length]).to(dskip.dtype)
                if needs_k or needs_reverse:
                    product = torch.fft.rfft(w).conj_physical_().mul_(turned)
                    circle = torch.fft.irfft(product[0] if len(product) == 1 else product.sum(0), size)
                    of_k, of_reverse = _unwrapped(circle, k.shape[1], None if k_reverse is None else k_reverse.shape[1], lag)
                    if dk is not None:
                        dk[piece] = of_k
                    if dreverse is not None and of_reverse is not None:
                        dreverse[piece] = of_reverse
            if du is not None or dbefore is not None:
                filter_ = _filter_piece(k, k_reverse, values, piece, size, lag, dtype)
                dw = torch.fft.irfft(turned.mul_(filter_.conj()), size)[..., :length]
                if skip is not None:
                    dw.addcmul_(skip[piece].to(dtype).unsqueeze(-1), g)
                if du is not None:
                    _put(du, piece, dw, before)
                if dbefore is not None:
                    _put(dbefore, piece, dw, u)
        return du, dk, dreverse, None, dskip, dbefore, dafter, None, None, None


def channel_pieces(channels: int, rows: int, length: int) -> list[slice]:
    """Pieces of channels that stay in a CPU's cache through the transforms of inputs (rows, channels, length)."""
    return _pieces(channels, _cached_channels(rows, 2 * length))


def _cached_channels(rows: int, size: int) -> int:
    return max(1, CACHED // (rows * size))


def _pieces(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _padded(padded: Tensor, u: Tensor, gate: Tensor | None, piece: slice) -> Tensor:
    """A piece of channels of gate * u, at the beginning of rows of zeros that serve all pieces; multiplied as it is put there."""
    rows = padded[:, : piece.stop - piece.start]
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
        place.copy_(x.to(torch.promote_types(x.dtype, torch.float32)) * gate[:, piece])


def _filter_piece(
    k: Tensor | None, k_reverse: Tensor | None, values: Tensor | None, piece: slice, size: int, reverse_lag: int, dtype: torch.dtype
) -> Tensor:
    if values is not None:
        return values[piece]
    assert k is not None
    return torch.fft.rfft(_wrapped(k[piece], None if k_reverse is None else k_reverse[piece], size, reverse_lag).to(dtype), size)


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
    y = _by_fft(whole, k, None, None, None, None, None, reverse_lag, None).unflatten(0, (batch, count))
    total = w.new_zeros(batch, dim, count * block + tail)
    for index in range(count):
        total[..., index * block : (index + 1) * block + tail] += y[:, index]
    return total[..., ahead : ahead + length]
