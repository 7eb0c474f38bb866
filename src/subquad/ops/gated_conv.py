"""Hyena's recurrence: a short convolution, then long convolutions and gates (arXiv 2302.10866, sections 3.1 and 3.2).

    x_0 .. x_{P-2}, v = short_conv(p),   z = v,   then for each filter h and its gate g:   z = x_g * (h conv z + skip z)

and before them all z = x_g * z, where there is a gate more than filters. Shapes: p (B, P D, T), skip (F, D), -> (B, D, T); B batch,
P parts, D channels, T positions, F long filters. Cost in T: that of the long convolutions, T log T for each by transforms.

``gated_conv_composed`` is the recurrence as it is written. The fused way does the same by transforms, in pieces of the channels that stay
in a processor's cache. Its backward pass keeps p and the output of each long filter; the short convolution and all spectra are recomputed,
so that nothing as large as p crosses the memory more often than it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.ops.autocast import at_least_float32
from subquad.ops.fft_conv import FFTFilter, channel_pieces, multiply_into
from subquad.ops.long_conv import Method, Spectrum, check_filters, check_inputs, check_spectrum, fastest_method, long_conv
from subquad.ops.short_conv import channel_dots, short_conv, short_conv_gradients, short_conv_into

Filter = tuple[Tensor | Spectrum, Tensor | None]  # (D, K) at lags from 0 on, and at lags from -1 on backwards; a spectrum holds both


def gated_conv_composed(
    p: Tensor,
    short: Tensor,
    bias: Tensor,
    filters: Sequence[Filter],
    skip: Tensor,
    gates: Sequence[int],
    real: Tensor | None = None,
    method: Method = "auto",
) -> Tensor:
    """Twin of ``gated_conv``: one operation after another, each long convolution by its fastest method or by ``method``."""
    parts = masked_short_conv(p.to(at_least_float32(p.dtype)), short, bias, real)  # (B, P D, T)
    *x, z = parts.unflatten(1, (-1, skip.shape[1])).unbind(1)  # x_0 .. x_{P-2}, v, each (B, D, T)
    after = list(gates)
    if len(after) > len(filters):
        z = z * x[after.pop(0)]
    for g, (h, h_reverse), skip_weight in zip(after, filters, skip, strict=True):
        z = long_conv(z, h, h_reverse, skip_weight, method=method) * x[g]  # x_g * (h conv z + skip z)
    return z.to(p.dtype)


def gated_conv(
    p: Tensor, short: Tensor, bias: Tensor, filters: Sequence[Filter], skip: Tensor, gates: Sequence[int], real: Tensor | None = None
) -> Tensor:
    """See the module's docstring. ``short`` (P D, taps) and ``bias`` (P D,) are the short convolution's; ``gates`` are the parts that gate,
    in their order of use.

    With ``real`` (B, T), False at padding, what is there counts as zero before and after the short convolution.
    Raises ``ValueError`` for shapes and gates that do not fit, and for what ``long_conv`` refuses.
    """
    _check(p, short, bias, filters, skip, gates, real)
    fft_filters = _fft_filters(p[:, : skip.shape[1]], filters)
    if fft_filters is None or p.numel() == 0:
        return gated_conv_composed(p, short, bias, filters, skip, gates, real)
    p, short, bias = (tensor.unflatten(dim, (-1, skip.shape[1])) for tensor, dim in ((p, 1), (short, 0), (bias, 0)))  # P D -> P, D
    tensors = [tensor for filter_ in fft_filters for tensor in (filter_.k, filter_.k_reverse, filter_.values)]
    return cast(Tensor, _GatedConv.apply(p, short, bias, skip, real, tuple(gates), fft_filters[0].size, *tensors))


def masked_short_conv(p: Tensor, short: Tensor, bias: Tensor, real: Tensor | None) -> Tensor:
    """The short convolution of p (B, C, T), with zeros where ``real`` (B, T) is False, before and after."""
    if real is None:
        return short_conv(p, short, bias)
    padding = ~real.unsqueeze(1)  # (B, 1, T)
    return short_conv(p.masked_fill(padding, 0), short, bias).masked_fill(padding, 0)


def _check(
    p: Tensor, short: Tensor, bias: Tensor, filters: Sequence[Filter], skip: Tensor, gates: Sequence[int], real: Tensor | None
) -> None:
    if p.ndim != 3 or short.ndim != 2 or short.shape[0] != p.shape[1] or bias.shape != p.shape[1:2]:
        shapes = tuple(p.shape), tuple(short.shape), tuple(bias.shape)
        raise ValueError("p must be (B, P D, T), short (P D, taps) and bias (P D,), got {}, {} and {}".format(*shapes))
    if skip.ndim != 2 or skip.shape[0] != len(filters) or skip.shape[1] == 0 or p.shape[1] % skip.shape[1]:
        raise ValueError(
            f"skip must be (F, D), one number per filter and channel, for {len(filters)} filters and D channels in each part of "
            f"p {tuple(p.shape)}, got {tuple(skip.shape)}"
        )
    parts = p.shape[1] // skip.shape[1]
    if not filters or len(gates) not in (len(filters), len(filters) + 1) or sorted(gates) != list(range(parts - 1)):
        raise ValueError(
            f"each part but the last must gate once, behind a filter each or one before them all: got {parts} parts, "
            f"{len(filters)} filters and gates {list(gates)}"
        )
    if real is not None and (real.shape not in ((p.shape[0], p.shape[2]), (1, p.shape[2])) or real.dtype != torch.bool):
        raise ValueError(f"real must be (B, T) of bool, {(p.shape[0], p.shape[2])}, got {tuple(real.shape)} of {real.dtype}")


def _fft_filters(u: Tensor, filters: Sequence[Filter]) -> list[FFTFilter] | None:
    """The filters as transforms of one size, for inputs as u (B, D, T); None unless that is the fastest way for each.

    Raises ``ValueError`` as ``long_conv`` does.
    """
    fft_filters = []
    for k, k_reverse in filters:
        if isinstance(k, Spectrum):
            check_spectrum(u, k, k_reverse)
            check_inputs(u, k.values.shape[0], None, ())
            fft_filters += [k.as_filter()] if k.method == "fft" else []
        else:
            check_filters(u, k, k_reverse)
            check_inputs(u, k.shape[0], None, ())
            by_fft = k.shape[1] > 0 and fastest_method(u, k, k_reverse) == "fft"
            fft_filters += [FFTFilter.of(k, k_reverse, u.shape[-1])] if by_fft else []
    one_size = len({filter_.size for filter_ in fft_filters}) == 1
    return fft_filters if one_size and len(fft_filters) == len(filters) else None


class _GatedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        p: Tensor,
        short: Tensor,
        bias: Tensor,
        skip: Tensor,
        real: Tensor | None,
        gates: tuple[int, ...],
        size: int,
        *tensors: Tensor | None,
    ) -> Tensor:
        chain = _Chain(p, short, bias, skip, real, gates, size, tensors)
        outputs = p.new_empty(len(skip), p.shape[0], *p.shape[2:]) if any(ctx.needs_input_grad) else None  # of filters, (F, B, D, T)
        y = p.new_empty(p.shape[0], *p.shape[2:])  # (B, D, T)
        for piece in chain.pieces:
            chain.start(piece)
            for n in range(len(skip)):
                conv = chain.convolved(n, piece)  # h_n conv z + skip_n z
                if outputs is not None:
                    outputs[n][:, piece] = conv
                if n + 1 < len(skip):
                    torch.mul(conv, chain.gate(n), out=chain.z)
                else:
                    multiply_into(y[:, piece], conv, chain.gate(n))
        ctx.gates, ctx.size = gates, size
        ctx.save_for_backward(p, short, bias, skip, real, outputs, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        p, short, bias, skip, real, outputs, *tensors = ctx.saved_tensors
        chain = _Chain(p, short, bias, skip, real, ctx.gates, ctx.size, tensors)
        needs_p, needs_short, needs_bias, needs_skip = ctx.needs_input_grad[:4]
        dp = torch.empty_like(p, memory_format=torch.contiguous_format) if needs_p else None
        dshort, dbias, dskip = (
            torch.empty_like(parameter) if needs else None
            for parameter, needs in ((short, needs_short), (bias, needs_bias), (skip, needs_skip))
        )
        needed = zip(tensors, ctx.needs_input_grad[7:], strict=True)
        dtensors = [torch.empty_like(tensor) if tensor is not None and needs else None for tensor, needs in needed]
        circles, buffer = torch.zeros_like(chain.circles), torch.empty_like(chain.buffer)
        for piece in chain.pieces:
            count = piece.stop - piece.start
            dparts, circle, dz = buffer[:, :, :count], circles[:, :count], gradients[0][:, piece]
            g = circle[..., : p.shape[-1]]  # (B, D, T), the gradient of a filter's output
            chain.start(piece)
            for n in reversed(range(len(skip))):
                multiply_into(dparts[:, chain.after[n]], dz, outputs[n][:, piece])
                multiply_into(g, dz, chain.gate(n))
                if n > 0:
                    multiply_into(chain.z, outputs[n - 1][:, piece], chain.gate(n - 1))  # what filter n read
                elif len(skip) > 1:
                    chain.begin()
                dz = chain.pull_back(n, piece, circle, g, dtensors, dskip)
            if chain.first is None:
                dparts[:, -1] = dz
            else:
                torch.mul(dz, chain.parts[:, chain.first], out=dparts[:, -1])
                torch.mul(dz, chain.parts[:, -1], out=dparts[:, chain.first])
            if chain.padding is not None:
                dparts.masked_fill_(chain.padding, 0)
            target, of_short, of_bias = _channels(dp, 2, piece), _channels(dshort, 1, piece), _channels(dbias, 1, piece)
            short_conv_gradients(dparts, chain.short_input(piece), chain.short[:, piece], target, of_short, of_bias)
            if target is not None and chain.padding is not None:
                target.masked_fill_(chain.padding, 0)
        return dp, dshort, dbias, dskip, None, None, None, *dtensors


class _Chain:
    """The chain for one piece of the channels after another, in buffers that serve them all.

    ``parts`` (B, P, D, T) are the short convolution's, and ``z`` (B, D, T) is what the next filter reads, at the beginning of a circle
    (B, D, size); D are here the channels of a piece.
    """

    def __init__(
        self,
        p: Tensor,
        short: Tensor,
        bias: Tensor,
        skip: Tensor,
        real: Tensor | None,
        gates: Sequence[int],
        size: int,
        tensors: Sequence[Tensor | None],
    ) -> None:
        self.dtype = at_least_float32(p.dtype)
        self.p, self.padding = p, None if real is None else ~real[:, None, None]  # (B, 1, 1, T)
        self.short, self.bias, self.skip = short.to(self.dtype), bias.to(self.dtype), skip.to(self.dtype).unsqueeze(-1)
        grouped = zip(tensors[::3], tensors[1::3], tensors[2::3], strict=True)
        self.filters = [FFTFilter(k, reverse, values, size) for k, reverse, values in grouped]
        leading = len(gates) - len(self.filters)  # 1 where a gate comes before all filters
        self.first, self.after = gates[0] if leading else None, gates[leading:]
        self.pieces = channel_pieces(p, size)
        count = self.pieces[0].stop
        self.buffer = p.new_empty(*p.shape[:2], count, p.shape[-1], dtype=self.dtype)
        self.circles = p.new_zeros(p.shape[0], count, size, dtype=self.dtype)
        self.parts, self.z, self.circle = self.buffer, self.circles, self.circles

    def short_input(self, piece: slice) -> Tensor:
        """What the short convolution of some channels reads."""
        p = self.p[:, :, piece].to(self.dtype)
        return p if self.padding is None else p.masked_fill(self.padding, 0)

    def start(self, piece: slice) -> None:
        """The short convolution of some channels, and what the first filter reads."""
        count = piece.stop - piece.start
        self.parts, self.circle = self.buffer[:, :, :count], self.circles[:, :count]
        self.z = self.circle[..., : self.p.shape[-1]]
        short_conv_into(self.parts, self.short_input(piece), self.short[:, piece], self.bias[:, piece])
        if self.padding is not None:
            self.parts.masked_fill_(self.padding, 0)
        self.begin()

    def begin(self) -> None:
        """What the first filter reads."""
        if self.first is None:
            self.z.copy_(self.parts[:, -1])
        else:
            torch.mul(self.parts[:, -1], self.parts[:, self.first], out=self.z)

    def gate(self, n: int) -> Tensor:
        """The gate after filter n."""
        return self.parts[:, self.after[n]]

    def convolved(self, n: int, piece: slice) -> Tensor:
        """Filter n of z, and its skip."""
        filter_ = self.filters[n]
        product = torch.fft.rfft(self.circle).mul_(filter_.spectrum(piece, self.dtype))  # (B, D, size / 2 + 1)
        return torch.fft.irfft(product, filter_.size)[..., : self.z.shape[-1]].addcmul_(self.skip[n, piece], self.z)

    def pull_back(self, n: int, piece: slice, circle: Tensor, g: Tensor, dtensors: Sequence[Tensor | None], dskip: Tensor | None) -> Tensor:
        """From g, the gradient of filter n's output at the beginning of a circle, to that of its input; on the way those of the filter
        itself and of its skip."""
        filter_ = self.filters[n]
        g_spectrum = torch.fft.rfft(circle)
        if dskip is not None:
            dskip[n, piece] = channel_dots(g, self.z).to(dskip.dtype)
        filter_.put_gradients(dtensors[3 * n], dtensors[3 * n + 1], piece, self.circle, g_spectrum)
        dz = torch.fft.irfft(g_spectrum.mul_(filter_.spectrum(piece, self.dtype).conj()), filter_.size)[..., : g.shape[-1]]
        return dz.addcmul_(self.skip[n, piece], g)


def _channels(whole: Tensor | None, dim: int, piece: slice) -> Tensor | None:
    """Some of the channels, which are in that dimension."""
    return None if whole is None else whole.narrow(dim, piece.start, piece.stop - piece.start)
