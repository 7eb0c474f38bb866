"""The generic Monarch Mixer layer (arXiv 2310.12109, section 3): Monarch matrices and kernels along the sequence, then along the channels.

    y = M2 relu(K * M1 x)   along T,   and with ``channels``:   z = LayerNorm(y + M4 relu(k * M3 y))   along D

K (N, D) and k (D,) multiply elementwise. Every M is a Monarch matrix of order 2: M1 and M2 over N = n^2 positions, n the root of the
context rounded up, M3 and M4 over m^2 channels. With M1 a Fourier transform and M2 its inverse the first line is a convolution with a
nonlinearity. B batch, T positions, D channels. Cost: 8 N^1.5 D along T, 8 D^1.5 a position along D. Two-sided; a shorter sequence is
padded with zeros.

The paper's listing draws all blocks from N(0, 1), which multiplies the input by n^2 and more; here they keep its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.layers.base import Mixer, MixerConfig, check_mask, check_width
from subquad.ops.monarch import monarch_multiply
from subquad.state import State

NO_STEPS = "a Monarch mixer sees later positions, so it cannot decode: use a causal mixer to generate"


class MonarchConfig(MixerConfig):
    """``channels`` adds the second half of the layer, for blocks that have no other channel mixer."""

    kind: Literal["monarch"] = "monarch"
    channels: bool = False

    @property
    def causal(self) -> bool:
        return False

    def build(self, dim: int, max_len: int) -> Monarch:
        return Monarch(self, dim, max_len)


class Monarch(Mixer):
    """See the module's docstring."""

    def __init__(self, config: MonarchConfig, dim: int, max_len: int) -> None:
        super().__init__()
        self.dim, self.sequence = dim, MonarchPair(max_len, dim)
        self.channels = MonarchPair(dim, 1) if config.channels else None
        self.norm = nn.LayerNorm(dim) if config.channels else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_width(x, self.dim)
        check_mask(x, mask)
        padding = None if mask is None else ~mask.unsqueeze(-1)
        y = self.sequence((x if padding is None else x.masked_fill(padding, 0)).mT).mT
        if self.channels is not None and self.norm is not None:
            y = self.norm(y + self.channels(y))
        return y if padding is None else y.masked_fill(padding, 0)

    def init_state(self, batch: int, max_len: int) -> State:
        raise ValueError(NO_STEPS)

    def prefill(self, x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
        raise ValueError(NO_STEPS)


class MonarchPair(nn.Module):
    """Last relu(K * First x) over the last dimension, (..., C, n) -> (..., C, n) with n up to ``size``; K is (C, N) or (N,)."""

    def __init__(self, size: int, kernels: int) -> None:
        super().__init__()
        self.size, root = size, math.isqrt(size - 1) + 1
        self.factors = nn.ParameterList(torch.empty(root, root, root) for _ in range(4))
        self.kernel = nn.Parameter(torch.empty(kernels, root**2) if kernels > 1 else torch.empty(root**2))
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        """Kernels of one and factors that keep the size of their input, the half that relu cuts included, whatever the model's ``std``."""
        nn.init.ones_(self.kernel)
        for factor, gain in zip(self.factors, (1.0, 1.0, 2**0.5, 1.0), strict=True):
            nn.init.normal_(factor, std=gain * factor.shape[2] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > self.size:
            raise ValueError(
                f"{x.shape[-1]} positions exceed the {self.size} that this mixer was built for: raise max_len or truncate the input"
            )
        first, second, third, fourth = self.factors
        hidden = F.relu(self.kernel * monarch_multiply(F.pad(x, (0, self.kernel.shape[-1] - x.shape[-1])), first, second))
        return monarch_multiply(hidden, third, fourth)[..., : x.shape[-1]]
