"""Short causal convolutions, and the stack of them that MEGABYTE puts before patching (section 2.3.1).

y[t] = b + sum over j < K of w[:, :, K - 1 - j] x[t - j], with zeros before the start. Cost in T: T * K * D^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.ops.ragged import put_rows, take_rows
from subquad.state import State


@dataclass
class ShortConvState(State):
    """The last K - 1 inputs of each row, zeros before its start."""

    past: Tensor  # (B, K - 1, D)


class ShortConv(nn.Module):
    """A causal convolution over time with full channel mixing, (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(dim, dim, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(F.pad(x, (0, 0, self.kernel - 1, 0)))

    def init_state(self, batch: int) -> ShortConvState:
        """The state before the first position."""
        weight = self.conv.weight
        return ShortConvState(torch.zeros(batch, self.kernel - 1, weight.shape[1], dtype=weight.dtype, device=weight.device))

    def prefill(self, x: Tensor, state: ShortConvState, lengths: Sequence[int] | None = None) -> Tensor:
        """See ``Mixer.prefill``."""
        batch, n, _ = x.shape
        past = self.kernel - 1
        buffer = F.pad(state.past, (0, 0, 0, n))
        put_rows(buffer, [past] * batch, x.to(buffer.dtype))
        state.past = take_rows(buffer, [n] * batch if lengths is None else lengths, past).clone()
        return self._convolve(buffer)

    def _convolve(self, padded: Tensor) -> Tensor:
        return self.conv(padded.transpose(1, 2)).transpose(1, 2)


@dataclass
class ConvEncoderState(State):
    """One state a convolution."""

    convs: list[ShortConvState]


class ConvEncoder(nn.Module):
    """Stacked causal convolutions (kernels 3, 5 and 7 in the paper), each x + conv(relu(x)); makes byte features independent of where
    a patch begins. The paper leaves width, nonlinearity and residuals open."""

    def __init__(self, dim: int, kernels: Sequence[int]) -> None:
        super().__init__()
        convs = nn.ModuleList(ShortConv(dim, kernel) for kernel in kernels)
        self.convs = cast("Sequence[ShortConv]", convs)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(F.relu(x))
        return x

    def init_state(self, batch: int) -> ConvEncoderState:
        """The state before the first position."""
        return ConvEncoderState([conv.init_state(batch) for conv in self.convs])

    def prefill(self, x: Tensor, state: ConvEncoderState, lengths: Sequence[int] | None = None) -> Tensor:
        """See ``Mixer.prefill``."""
        for conv, inner in zip(self.convs, state.convs, strict=True):
            x = x + conv.prefill(F.relu(x), inner, lengths)
        return x
