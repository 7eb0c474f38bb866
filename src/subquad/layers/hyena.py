"""Hyena: alternating long convolutions and elementwise gates (arXiv 2302.10866, definition 3.1).

    x_0 .. x_{N-1}, v = short_conv(x W),   z = v,   then for n = 1 .. N:   z = x_{N-n} * (h_n conv z + skip_n z),   y = z W_out

N is the order. ``short_first=False`` is equation 4; by default the short convolution takes the place of h_1, as in the official code:
N - 1 long filters, and the first gate comes before any of them. Causal, or two-sided with a reverse filter beside each; the short
convolution is causal in both. B batch, T positions, D channels. Cost in T: N T log T channel by channel, and the projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.layers.base import FilterSpectra, MixerConfig, check_mask, check_width
from subquad.layers.gated_conv import GatedConv, GatedConvState, ShortFilter, Skip, Taps
from subquad.layers.long_filter import AnyFilterConfig, ImplicitFilterConfig
from subquad.ops.gated_conv import gated_conv
from subquad.ops.linear import linear_from_positions_last, linear_to_positions_last


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
            raise ValueError("with order 1 the short convolution is the only filter: use order 2, or short_first=false")
        return self

    def build(self, dim: int, max_len: int) -> Hyena:
        return Hyena(self, dim, max_len)


class Hyena(GatedConv):
    """See the module's docstring."""

    def __init__(self, config: HyenaConfig, dim: int, max_len: int) -> None:
        super().__init__()
        self.config, self.dim, self.max_len = config, dim, max_len
        self.two_sided, self.filters = config.two_sided, config.filters
        width = (config.order + 1) * dim
        self.project = nn.Linear(dim, width)
        self.short = ShortFilter(width, config.short_kernel)
        sides = 2 if config.two_sided else 1
        self.filter = config.filter.build(sides * config.filters * dim, max_len)
        self.skip = Skip(config.filters, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, spectra: FilterSpectra | None = None) -> Tensor:
        check_width(x, self.dim)
        check_mask(x, mask)
        h = self._filters_or(spectra, x.shape[1])  # of h_1 .. h_N those that are long, each (D, T); h_1 is often the short one
        p = linear_to_positions_last(x, self.project.weight, self.project.bias)  # (B, (N + 1) D, T): x_0 .. x_{N-1}, v
        gates = range(self.config.order)[::-1]  # x_{N-1} is the first
        # short_conv(p), then z = v and z = x_{N-n} * (h_n conv z + skip_n z) for n = 1 .. N, (B, D, T)
        z = gated_conv(p, self.short.weight, self.short.bias, h, self.skip.weight, gates, mask)
        y = linear_from_positions_last(z, self.out.weight, self.out.bias)  # (B, D, T) -> (B, T, D)
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)

    def prefill(self, x: Tensor, state: GatedConvState, lengths: Sequence[int] | None = None) -> Tensor:
        check_width(x, self.dim)
        self._check_causal()
        p = self._short_prefill(self.project(x), state, lengths)  # (B, n, (N + 1) D)
        *gates, z = p.unflatten(-1, (-1, self.dim)).unbind(-2)  # x_0 .. x_{N-1}, v, each (B, n, D)
        if self.config.short_first:  # h_1 is the short convolution's
            z = gates.pop() * z
        for skip, conv in zip(self.skip.weight, state.convs, strict=True):
            z = gates.pop() * torch.addcmul(self._continue(z, conv, lengths), skip, z)
        return self.out(z)

    def _filters(self, length: int) -> list[Taps]:
        taps = self.filter(length).unflatten(0, (-1, self.config.filters, self.dim))
        return [(taps[0, n], taps[1, n] if self.config.two_sided else None) for n in range(self.config.filters)]
