"""Monarch Mixer along the sequence, as released for M2-BERT (arXiv 2310.12109): one gated long convolution, and one past all gates.

    a, b, v = short_conv(u W),   z = b * (h conv (a * v) + skip (a * v)) + h' conv u + skip' u,   y = z W_out

The second convolution, ``residual``, reads the mixer's input itself: in M2-BERT nothing else bypasses a mixer. Two-sided filters are
made by a network for each direction, with one frequency and window; the short convolution is still causal. The paper writes the
convolutions as products with Monarch matrices that are set to Fourier transforms; here they are ``ops/long_conv.py``'s.
B batch, T positions, D channels. Cost in T: T log T channel by channel, and the projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from subquad.layers.base import FilterSpectra, MixerConfig, check_mask, check_width
from subquad.layers.gated_conv import GatedConv, GatedConvState, ShortFilter, Skip, Taps
from subquad.layers.long_filter import AnyFilterConfig, ImplicitFilterConfig
from subquad.ops.gated_conv import gated_conv
from subquad.ops.linear import linear_from_positions_last, linear_to_positions_last
from subquad.ops.long_conv import long_conv


class M2BertMixerConfig(MixerConfig):
    """``residual`` is the convolution of the mixer's input; ``norm`` puts a LayerNorm before both (the code's "training additions").

    ``short_kernel`` counts the taps of the short convolution.
    """

    kind: Literal["m2_bert"] = "m2_bert"
    two_sided: bool = False
    residual: bool = True
    norm: bool = False
    short_kernel: int = Field(3, gt=0)
    filter: AnyFilterConfig = ImplicitFilterConfig(features=5, width=128)

    @property
    def causal(self) -> bool:
        return not self.two_sided

    def build(self, dim: int, max_len: int) -> M2BertMixer:
        return M2BertMixer(self, dim, max_len)


class M2BertMixer(GatedConv):
    """See the module's docstring."""

    def __init__(self, config: M2BertMixerConfig, dim: int, max_len: int) -> None:
        super().__init__()
        self.config, self.dim, self.max_len = config, dim, max_len
        self.two_sided, self.filters = config.two_sided, 1 + config.residual
        build = config.filter.build_two_sided if config.two_sided else config.filter.build
        self.norm = nn.LayerNorm(dim) if config.norm else None
        self.project = nn.Linear(dim, 3 * dim)
        self.short = ShortFilter(3 * dim, config.short_kernel)
        self.filter = build(dim, max_len)
        self.residual = build(dim, max_len) if config.residual else None
        self.skip = Skip(1, dim)
        self.residual_skip = Skip(1, dim) if config.residual else None
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, spectra: FilterSpectra | None = None) -> Tensor:
        check_width(x, self.dim)
        check_mask(x, mask)
        u = x if self.norm is None else self.norm(x)
        h, *residual = self._filters_or(spectra, x.shape[1])  # h and h', each (D, T)
        p = linear_to_positions_last(u, self.project.weight, self.project.bias)  # (B, 3 D, T): a, b, v
        # short_conv(p), then z = b * (h conv (a * v) + skip (a * v)), (B, D, T)
        z = gated_conv(p, self.short.weight, self.short.bias, [h], self.skip.weight, (0, 1), mask)
        if self.residual_skip is not None:
            inputs = u.mT if mask is None else u.mT.masked_fill(~mask.unsqueeze(1), 0)  # (B, D, T)
            z = z + long_conv(inputs, *residual[0], self.residual_skip.weight[0])  # h' conv u + skip' u
        y = linear_from_positions_last(z, self.out.weight, self.out.bias)  # (B, D, T) -> (B, T, D)
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)

    def prefill(self, x: Tensor, state: GatedConvState, lengths: Sequence[int] | None = None) -> Tensor:
        check_width(x, self.dim)
        self._check_causal()
        u = x if self.norm is None else self.norm(x)
        p = self._short_prefill(self.project(u), state, lengths)  # (B, n, 3 D)
        a, b, v = p.unflatten(-1, (3, self.dim)).unbind(-2)  # each (B, n, D)
        v = a * v
        z = b * torch.addcmul(self._continue(v, state.convs[0], lengths), self.skip.weight[0], v)
        if self.residual_skip is not None:
            z = z + torch.addcmul(self._continue(u, state.convs[1], lengths), self.residual_skip.weight[0], u)
        return self.out(z)

    def _filters(self, length: int) -> list[Taps]:
        sides = [filter_(length).unflatten(0, (-1, self.dim)) for filter_ in (self.filter, self.residual) if filter_ is not None]
        return [(taps[0], taps[1] if self.two_sided else None) for taps in sides]
