"""What the mixers of long convolutions and gates share: a projection, a short causal convolution after it, and how both decode.

    p = short_conv(x W),   then gates and long convolutions, which differ,   y = z W_out

B batch, T positions, D channels, C channels of the projection. Inside, positions come last, as convolutions want them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subquad.layers.base import FilterSpectra, Mixer, OptimizerHint
from subquad.ops.gated_conv import Filter
from subquad.ops.long_conv import spectrum
from subquad.ops.online_conv import OnlineConvState, OnlineFilter, init_online_conv, prefill_online_conv
from subquad.ops.ragged import take_rows
from subquad.state import State

Taps = tuple[Tensor, Tensor | None]  # (D, K) at lags from 0 on, and at lags from -1 on backwards


@dataclass
class GatedConvState(State):
    """The last inputs of the short convolution and a running convolution for each long filter."""

    past: Tensor  # (B, taps - 1, C)
    convs: list[State]


class GatedConv(Mixer[GatedConvState]):
    """Base of these mixers; ``two_sided`` ones have no steps. ``filters`` counts the long filters of each channel and side."""

    dim: int
    max_len: int
    two_sided: bool
    filters: int
    project: nn.Linear
    short: ShortFilter
    skip: Skip
    out: nn.Linear

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None, spectra: FilterSpectra | None = None) -> Tensor:
        """See ``Mixer.forward``; ``spectra`` as ``prepare`` made them."""

    @abstractmethod
    def _filters(self, length: int) -> list[Taps]:
        """The taps of each long filter, for inputs of that length."""

    def prepare(self, length: int) -> FilterSpectra:
        """The spectra of the filters for inputs of up to ``length`` positions; hand them to ``forward`` while the weights stay."""
        self._check_length(length)
        with torch.no_grad():
            return tuple(spectrum(taps, length, reverse) for taps, reverse in self._filters(length))

    def init_state(self, batch: int, max_len: int) -> GatedConvState:
        self._check_causal()
        self._check_length(max_len)
        convs = self._init_convs(batch, max_len)
        past = self.project.weight.new_zeros(batch, self.short.weight.shape[1] - 1, self.project.out_features)
        return GatedConvState(past, convs)

    @torch.no_grad()
    def _init_convs(self, batch: int, max_len: int) -> list[State]:
        return [init_online_conv(OnlineFilter.of(taps, max_len), batch) for taps, _ in self._filters(max_len)]

    def _filters_or(self, spectra: FilterSpectra | None, length: int) -> Sequence[Filter]:
        """The long filters for inputs of that length, or the spectra. Raises ``ValueError`` for what is not for this mixer."""
        self._check_length(length)
        if spectra is None:
            return self._filters(length)
        if self.training and torch.is_grad_enabled():
            raise ValueError("prepared spectra give the filters no gradient: train without them, or call eval()")
        if len(spectra) != self.filters:
            raise ValueError(f"expected the spectra of {self.filters} filters, got {len(spectra)}: prepare with this mixer")
        return [(whole, None) for whole in spectra]

    def _short_prefill(self, p: Tensor, state: GatedConvState, lengths: Sequence[int] | None) -> Tensor:
        """The short convolution of (B, n, C), continued from the last inputs."""
        past, n = state.past.shape[1], p.shape[1]
        inputs = torch.cat((state.past, p.to(state.past.dtype)), 1)  # (B, past + n, C)
        state.past = take_rows(inputs, [n] * p.shape[0] if lengths is None else lengths, past).clone()
        taps = self.short.weight.T
        y = torch.addcmul(self.short.bias, inputs[:, past:], taps[0])
        for j in range(1, past + 1):
            y = torch.addcmul(y, inputs[:, past - j : past - j + n], taps[j])
        return y

    def _continue(self, z: Tensor, conv: State, lengths: Sequence[int] | None) -> Tensor:
        """One long convolution of the next positions, (B, n, D) -> (B, n, D)."""
        assert isinstance(conv, OnlineConvState)
        return prefill_online_conv(z, conv, lengths)

    def _check_causal(self) -> None:
        if self.two_sided:
            raise ValueError(
                f"a two-sided {type(self).__name__} sees later positions, so it cannot decode: set two_sided=false to generate"
            )

    def _check_length(self, length: int) -> None:
        if length < 0:
            raise ValueError(f"a length must be 0 or more positions, got {length}")
        if length > self.max_len + 1:  # a context and the start vector before it
            raise ValueError(
                f"{length} positions exceed the {self.max_len} of the filter: build the model with a larger max_len; "
                f"filter.filter_len={self.max_len} then keeps the filters and continues them"
            )


class ShortFilter(nn.Module):
    """A few causal taps a channel; ``weight[:, j]`` is of lag j. Drawn as PyTorch draws a convolution's."""

    OPTIMIZER_HINTS: ClassVar[Mapping[str, OptimizerHint]] = {"weight": OptimizerHint(decay=True)}

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels, taps)), nn.Parameter(torch.empty(channels))
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        """Uniform within 1 / sqrt(taps), whatever the model's ``std``: three small weights would close the layer."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class Skip(nn.Module):
    """What each long convolution passes through, (filters, D), from N(0, 1) as in the official code: without it training starts slowly."""

    def __init__(self, filters: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(filters, dim))
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        """N(0, 1), whatever the model's ``std``."""
        nn.init.normal_(self.weight)
