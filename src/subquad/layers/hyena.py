"""Hyena: long convolutions and elementwise gates in alternation (arXiv 2302.10866, definition 3.1).

    x_0 .. x_{N-1}, v = short_conv(x W),   z = v,   then for n = 1 .. N:   z = x_{N-n} * (h_n conv z + skip_n z),   y = z W_out

N is the order. ``short_first=False`` is equation 4 as it stands; by default h_1 is left to the short convolution, as in the official code:
N - 1 long filters, and the first gate comes before any of them. Causal, or two-sided with a reverse filter beside each; the short
convolution is causal in both. B batch, T positions, D channels. Cost in T: N T log T channel by channel, and the projections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.layers.long_filter import AnyFilterConfig, ImplicitFilterConfig
from subquad.layers.mixer import Mixer, MixerConfig, OptimizerHint, Prepared
from subquad.ops.long_conv import Spectrum, channel_pieces, long_conv, spectrum
from subquad.ops.online_conv import OnlineConvState, OnlineFilter, init_online_conv, prefill_online_conv
from subquad.ops.rows import take_rows
from subquad.ops.short_conv import short_conv
from subquad.state import State

Filter = tuple[Tensor | Spectrum, Tensor | None]  # of lags from 0 on and, two-sided, the reverse; a spectrum holds both


class HyenaConfig(MixerConfig):
    """``order`` is N; ``short_kernel`` counts the taps of the short convolution, 1 leaves only a scale."""

    kind: Literal["hyena"] = "hyena"
    order: int = Field(2, ge=1)
    short_first: bool = True
    short_kernel: int = Field(3, gt=0)
    filter: AnyFilterConfig = ImplicitFilterConfig()
    two_sided: bool = False

    @property
    def causal(self) -> bool:
        return not self.two_sided

    @property
    def filters(self) -> int:
        """Long filters of each channel and side."""
        return self.order - self.short_first

    @model_validator(mode="after")
    def _has_filters(self) -> HyenaConfig:
        if not self.filters:
            raise ValueError("order 1 leaves its one filter to the short convolution, so none is long: use order 2, or short_first=false")
        return self

    def build(self, dim: int, max_len: int) -> Hyena:
        return Hyena(self, dim, max_len)


@dataclass
class HyenaState(State):
    """The last inputs of the short convolution and a running convolution for each long filter."""

    past: Tensor  # (B, taps - 1, (N + 1) D)
    convs: list[State]


class Hyena(Mixer):
    """See the module's docstring."""

    def __init__(self, config: HyenaConfig, dim: int, max_len: int) -> None:
        super().__init__()
        self.config, self.dim, self.max_len = config, dim, max_len
        width = (config.order + 1) * dim
        self.project = nn.Linear(dim, width)
        self.short = ShortFilter(width, config.short_kernel)
        sides = 2 if config.two_sided else 1
        self.filter = config.filter.build(sides * config.filters * dim, max_len)
        self.skip = Skip(config.filters, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, prepared: Prepared | None = None) -> Tensor:
        self._check_length(x.shape[1])
        real = None if mask is None else self._real(x, mask)
        self._check_prepared(prepared)
        p = self._projected(x).unflatten(1, (-1, self.dim))
        filters = self._filters(x.shape[1]) if prepared is None else [(held, None) for held in prepared]
        if torch.is_grad_enabled() or p.device.type != "cpu":
            z = self._convolved(p, filters, real, slice(None))
        else:  # nothing is kept for a backward pass, so all between the projections can be done while a piece of channels is in the cache
            z = torch.empty_like(p[:, 0], memory_format=torch.contiguous_format)
            for piece in channel_pieces(self.dim, x.shape[0], x.shape[1]):
                z[:, piece] = self._convolved(p, filters, real, piece)
        y = self._output(z)
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)

    def _convolved(self, p: Tensor, filters: Sequence[Filter], real: Tensor | None, piece: slice) -> Tensor:
        """Everything between the projections for some of the channels: (B, N + 1, D, T) -> (B, D, T)."""
        p = p[:, :, piece]
        real = None if real is None else real.unsqueeze(1)
        p = self.short(p if real is None else p.masked_fill(~real, 0), piece)
        *gates, z = (p if real is None else p.masked_fill(~real, 0)).unbind(1)
        first: Tensor | None = gates.pop() if self.config.short_first else None
        for skip, (taps, reverse) in zip(self.skip.weight, filters, strict=True):
            z = long_conv(z, taps[piece], None if reverse is None else reverse[piece], skip[piece], before=first, after=gates.pop())
            first = None
        return z

    def prepare(self, length: int) -> Prepared:
        """The spectra of the filters for inputs of up to ``length`` positions; hand them to ``forward`` while the weights stay."""
        self._check_length(length)
        with torch.no_grad():
            return tuple(spectrum(taps, length, reverse) for taps, reverse in self._filters(length))

    def init_state(self, batch: int, max_len: int) -> HyenaState:
        self._check_causal()
        self._check_length(max_len)
        convs = self._init_convs(batch, max_len)
        past = self.project.weight.new_zeros(batch, self.config.short_kernel - 1, self.project.out_features)
        return HyenaState(past, convs)

    def prefill(self, x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
        assert isinstance(state, HyenaState)
        self._check_causal()
        *gates, z = self._short_prefill(self.project(x), state, lengths).unflatten(-1, (-1, self.dim)).unbind(-2)
        if self.config.short_first:
            z = z * gates.pop()
        for skip, conv in zip(self.skip.weight, state.convs, strict=True):
            z = gates.pop() * torch.addcmul(self._continue(z, conv, lengths), skip, z)
        return self.out(z)

    @torch.no_grad()
    def _init_convs(self, batch: int, max_len: int) -> list[State]:
        return [init_online_conv(OnlineFilter.of(taps, max_len), batch) for taps, _ in self._filters(max_len)]

    def _continue(self, z: Tensor, conv: State, lengths: Sequence[int] | None) -> Tensor:
        """One long convolution of the next positions, (B, n, D) -> (B, n, D)."""
        assert isinstance(conv, OnlineConvState)
        return prefill_online_conv(z, conv, lengths)

    def _short_prefill(self, p: Tensor, state: HyenaState, lengths: Sequence[int] | None) -> Tensor:
        """The short convolution of (B, n, width), continued from the last inputs."""
        past, n = state.past.shape[1], p.shape[1]
        buffer = torch.cat((state.past, p.to(state.past.dtype)), 1)
        state.past = take_rows(buffer, [n] * p.shape[0] if lengths is None else lengths, past).clone()
        taps = self.short.weight.T
        y = torch.addcmul(self.short.bias, buffer[:, past:], taps[0])
        for j in range(1, past + 1):
            y = torch.addcmul(y, buffer[:, past - j : past - j + n], taps[j])
        return y

    def _filters(self, length: int) -> list[tuple[Tensor, Tensor | None]]:
        """The taps of each long filter, (D, K), and of its reverse."""
        taps = self.filter(length).unflatten(0, (-1, self.config.filters, self.dim))
        return [(taps[0, n], taps[1, n] if self.config.two_sided else None) for n in range(self.config.filters)]

    def _projected(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, (N + 1) D, T): positions last, as convolutions want them. One row needs no copy for that."""
        weight, bias = self.project.weight, self.project.bias
        if x.shape[0] == 1:
            return torch.addmm(bias.unsqueeze(1), weight, x[0].mT).unsqueeze(0)
        return F.linear(x, weight, bias).mT.contiguous()

    def _output(self, y: Tensor) -> Tensor:
        weight, bias = self.out.weight, self.out.bias
        if y.shape[0] == 1:
            return torch.addmm(bias, y[0].mT, weight.mT).unsqueeze(0)
        return F.linear(y.mT, weight, bias)

    def _real(self, x: Tensor, mask: Tensor) -> Tensor:
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            found = f"{tuple(mask.shape)} of {mask.dtype}"
            raise ValueError(f"a mask has one entry a position, {tuple(x.shape[:2])}, True where it is real, got {found}: give (B, T)")
        return mask.unsqueeze(1)

    def _check_prepared(self, prepared: Prepared | None) -> None:
        if prepared is None:
            return
        if self.training and torch.is_grad_enabled():
            raise ValueError("prepared spectra give the filters no gradient: train without them, or call eval()")
        if len(prepared) != self.config.filters:
            raise ValueError(f"expected the spectra of {self.config.filters} filters, got {len(prepared)}: prepare with this mixer")

    def _check_causal(self) -> None:
        if self.config.two_sided:
            raise ValueError("a two-sided Hyena sees what comes later, so it has no steps: set two_sided=false to generate")

    def _check_length(self, length: int) -> None:
        if length > self.max_len + 1:  # a context and the start vector before it
            raise ValueError(
                f"{length} positions exceed the {self.max_len} of the filter: build the model with a larger max_len; "
                f"filter.base_len={self.max_len} then keeps the filters as they are and continues them, without it they are stretched"
            )


class ShortFilter(nn.Module):
    """A few causal taps a channel; ``weight[:, j]`` is of lag j. Drawn as PyTorch draws a convolution's."""

    OPTIMIZER_HINTS: ClassVar[Mapping[str, OptimizerHint]] = {"weight": OptimizerHint(decay=True)}

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels, taps)), nn.Parameter(torch.empty(channels))
        self.initialise(0.0)

    def initialise(self, std: float) -> None:
        """Uniform within 1 / sqrt(taps), whatever the model's ``std``: three small weights would close the layer."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, p: Tensor, piece: slice) -> Tensor:
        """Some of D channels in each of N + 1 parts, (B, N + 1, D, T) -> the same."""
        parts = p.shape[1]
        weight, bias = self.weight.unflatten(0, (parts, -1)), self.bias.unflatten(0, (parts, -1))
        return short_conv(p, weight[:, piece], bias[:, piece])


class Skip(nn.Module):
    """What each long convolution passes through, (filters, D), from N(0, 1) as in the official code: without it training starts slowly."""

    def __init__(self, filters: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(filters, dim))
        self.initialise(0.0)

    def initialise(self, std: float) -> None:
        """N(0, 1), whatever the model's ``std``."""
        nn.init.normal_(self.weight)
