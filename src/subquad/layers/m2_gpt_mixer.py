"""The causal Monarch mixer of M2-GPT (arXiv 2310.12109): gated long convolutions whose filters all heads share, in a basis of polynomials.

    x_0 .. x_{N-1}, v = short_conv(u W),   z = x_{N-1} * v,   then for n = 1 .. N - 1:   z = x_{N-1-n} * (M^-1 (M h_n * M z) + skip_n z)
    y = z W_out

N is the order, as Hyena's. Each of H heads is such an operator on D / H channels; the filters and skips of these are shared
by all heads, as in H3. M is a causal Monarch matrix of one of two bases:

    dft      M evaluates plain powers at roots of unity: the causal convolution, by ``ops/long_conv.py``
    learned  T^-1 (T h conv T z) with triangular factors of T that are learned (``ops/causal_monarch.py``), ones at the start

No code of M2-GPT was released; this is our reading of its description. B batch, T positions, D channels. Cost in T: 2 + 1 / H transforms of
2 T points a channel and long filter, and the projections; learned, 2 T (b + h) multiplications a channel and filter more, b h >= T.
A decoding step costs what Hyena's does, log^2 T, and learned 2 (b + h) multiplications a channel and filter more, as many as a position
of ``forward``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.layers.base import FilterSpectra, MixerConfig, OptimizerHint, check_mask, check_width
from subquad.layers.gated_conv import GatedConv, GatedConvState, ShortFilter, Skip, Taps
from subquad.layers.long_filter import AnyFilterConfig, ImplicitFilterConfig
from subquad.ops.causal_monarch import causal_monarch_conv, prepare_taps
from subquad.ops.gated_conv import masked_short_conv
from subquad.ops.linear import linear_from_positions_last, linear_to_positions_last
from subquad.ops.long_conv import Spectrum, long_conv
from subquad.ops.online_conv import OnlineConvState, OnlineFilter, init_online_conv, prefill_online_conv
from subquad.ops.online_monarch import OnlineBasis, OnlineBasisState, init_online_basis, prefill_online_basis
from subquad.state import State


class M2GptMixerConfig(MixerConfig):
    """``heads`` share the filters; ``order`` is N; ``short_kernel`` counts the taps of the short convolution.

    ``block`` is b, the positions of a block of the learned basis, any number: what the context lacks of whole blocks counts as zeros. By
    default the root of twice the length, rounded up: N = b^2 points for half as many positions, as in the paper.
    """

    kind: Literal["m2_gpt"] = "m2_gpt"
    heads: int = Field(gt=0)
    order: int = Field(2, ge=2)
    basis: Literal["dft", "learned"] = "dft"
    block: int | None = Field(None, gt=0)
    short_kernel: int = Field(3, gt=0)
    filter: AnyFilterConfig = ImplicitFilterConfig()

    @model_validator(mode="after")
    def _has_blocks(self) -> Self:
        if self.block is not None and self.basis == "dft":
            raise ValueError('block is for a learned basis, got basis="dft": set basis="learned", or leave block out')
        return self

    def build(self, dim: int, max_len: int) -> M2GptMixer:
        return M2GptMixer(self, dim, max_len)


class M2GptMixer(GatedConv):
    """See the module's docstring. Raises ``ValueError`` when heads do not divide the width.

    Inside, every head of every row is a separate row of ``dim`` channels.
    """

    def __init__(self, config: M2GptMixerConfig, dim: int, max_len: int) -> None:
        super().__init__()
        if dim % config.heads:
            raise ValueError(f"dim {dim} is not a multiple of {config.heads} heads: change one of them")
        self.config, self.heads, self.dim, self.max_len = config, config.heads, dim // config.heads, max_len
        self.two_sided, self.filters = False, config.order - 1
        width = (config.order + 1) * dim
        self.project = nn.Linear(dim, width)  # to heads, each with N + 1 parts of its channels
        self.short = ShortFilter(width, config.short_kernel)
        self.filter = config.filter.build(self.filters * self.dim, max_len)
        self.skip = Skip(self.filters, self.dim)
        self.basis = CausalBasis(max_len + 1, config.block) if config.basis == "learned" else None
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, spectra: FilterSpectra | None = None) -> Tensor:
        check_width(x, self.project.in_features)
        check_mask(x, mask)
        filters = self._filters_or(spectra, x.shape[1])  # h_1 .. h_{N-1}, each (D / H, T)
        p = linear_to_positions_last(x, self.project.weight, self.project.bias)  # (B, H (N + 1) D / H, T)
        p = masked_short_conv(p, self.short.weight, self.short.bias, mask)
        *gates, z = p.unflatten(1, (self.heads, -1, self.dim)).flatten(0, 1).unbind(1)  # x_0 .. x_{N-1}, v, each (B H, D / H, T)
        before: Tensor | None = gates.pop()  # x_{N-1}
        for (h, _), skip in zip(filters, self.skip.weight, strict=True):
            z = self._gated_conv(z, h, skip, before, gates.pop())  # x_{N-1-n} * (h_n conv z + skip_n z)
            before = None
        z = z.unflatten(0, (-1, self.heads)).flatten(1, 2)  # (B, D, T)
        y = linear_from_positions_last(z, self.out.weight, self.out.bias)  # (B, T, D)
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)

    def _gated_conv(self, z: Tensor, taps: Tensor | Spectrum, skip: Tensor, before: Tensor | None, after: Tensor) -> Tensor:
        """after * (h conv (before * z) + skip * before * z), all (B H, D / H, T)."""
        if self.basis is None:
            return long_conv(z, taps, None, skip, before=before, after=after)
        z = z if before is None else before * z
        y = causal_monarch_conv(z, taps, *self.basis.factors, prepared=True)
        return after * torch.addcmul(y, skip.unsqueeze(-1), z)

    @torch.no_grad()
    def _init_convs(self, batch: int, max_len: int) -> list[State]:
        rows = batch * self.heads
        basis = None if self.basis is None else OnlineBasis.of(*self.basis.factors, max_len)

        def ends() -> OnlineBasisState | None:
            return None if basis is None else init_online_basis(basis, rows, self.dim)

        convs = (init_online_conv(OnlineFilter.of(taps, max_len), rows) for taps, _ in self._filters(max_len))
        return [SharedConvState(self.heads, conv, ends(), ends()) for conv in convs]

    def prefill(self, x: Tensor, state: GatedConvState, lengths: Sequence[int] | None = None) -> Tensor:
        check_width(x, self.project.in_features)
        p = self._short_prefill(self.project(x), state, lengths).unflatten(-1, (self.heads, -1, self.dim))  # (B, n, H, N + 1, D / H)
        *gates, z = p.permute(3, 0, 2, 1, 4).flatten(1, 2).unbind(0)  # x_0 .. x_{N-1}, v, each (B H, n, D / H)
        z = gates.pop() * z
        head_lengths = None if lengths is None else [length for length in lengths for _ in range(self.heads)]
        for skip, conv in zip(self.skip.weight, state.convs, strict=True):
            z = gates.pop() * torch.addcmul(self._continue(z, conv, head_lengths), skip, z)
        return self.out(z.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2))

    def _continue(self, z: Tensor, conv: State, lengths: Sequence[int] | None) -> Tensor:
        assert isinstance(conv, SharedConvState)
        if conv.entering is None or conv.leaving is None:
            return prefill_online_conv(z, conv.conv, lengths)
        powers = prefill_online_conv(prefill_online_basis(z, conv.entering, lengths), conv.conv, lengths)
        return prefill_online_basis(powers, conv.leaving, lengths, inverse=True).to(z.dtype)

    def _filters(self, length: int) -> list[Taps]:
        """Of a learned basis those of the convolution in the middle, T h."""
        taps = self.filter(length)
        if self.basis is not None:
            taps = prepare_taps(taps, length, *self.basis.factors)
        return [(filter_, None) for filter_ in taps.unflatten(0, (self.filters, self.dim))]


class CausalBasis(nn.Module):
    """The learned triangular factors for ``length`` positions: ``a`` (b, b) and ``c`` (b, h, h), read below their diagonals alone.

    Zeros at the start, so that the mixer begins as the causal convolution.
    """

    OPTIMIZER_HINTS: ClassVar[Mapping[str, OptimizerHint]] = {"*": OptimizerHint(decay=False)}

    def __init__(self, length: int, block: int | None) -> None:
        super().__init__()
        b = isqrt(2 * length - 1) + 1 if block is None else min(block, length)
        h = -(-length // b)
        self.a, self.c = nn.Parameter(torch.empty(b, b)), nn.Parameter(torch.empty(b, h, h))
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        """Zeros, whatever the model's ``std``."""
        nn.init.zeros_(self.a)
        nn.init.zeros_(self.c)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """a and c."""
        return self.a, self.c


@dataclass
class SharedConvState(State):
    """One long convolution of all heads, whose rows are those of the batch times the heads, and a learned basis before and after it."""

    heads: int
    conv: OnlineConvState
    entering: OnlineBasisState | None
    leaving: OnlineBasisState | None

    def reset(self, rows: Sequence[bool], fresh: Self) -> None:
        super().reset([row for row in rows for _ in range(self.heads)], fresh)
