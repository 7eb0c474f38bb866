"""Causal linear attention over H heads of d channels: weights phi(q)^T phi(k) with phi = elu + 1 instead of a softmax.

The formula is in ``ops/linear_attention.py``; the paper is Katharopoulos et al., arXiv 2006.16236, rotary positions are RoFormer's
(arXiv 2104.09864, section 3.3). Cost in T: T * (C + d) in chunks of C. A decoding state has the same size at every length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from subquad.layers.base import AttentionFlops, Mixer, MixerConfig, check_mask, check_width
from subquad.ops.autocast import at_least_float32
from subquad.ops.linear_attention import CHUNK, continue_linear_attention, linear_attention
from subquad.ops.ragged import length_mask
from subquad.ops.rotary import RotarySteps, Rotation, next_rotation
from subquad.state import State


class LinearAttentionConfig(MixerConfig):
    """``head_dim`` defaults to dim / heads; ``chunk`` positions are multiplied out at a time, which changes speed and no result."""

    kind: Literal["linear_attention"] = "linear_attention"
    heads: int = Field(gt=0)
    head_dim: int | None = Field(None, gt=0)
    rotary: bool = False
    rotary_base: float = Field(10_000.0, gt=1)
    chunk: int = Field(CHUNK, gt=0)

    def build(self, dim: int, max_len: int) -> LinearAttention:
        return LinearAttention(self, dim)


@dataclass
class RunningSums(State):
    """What the past comes down to, in float32 or better, and how many positions each row has taken."""

    products: Tensor  # (B, H, d, d), sum of phi(k) v^T, with rotary positions of rotated keys
    keys: Tensor  # (B, H, d), sum of phi(k)
    lengths: list[int]
    rotary: RotarySteps | None = None


class LinearAttention(Mixer[RunningSums]):
    """See the module's docstring. Raises ``ValueError`` when heads do not divide the width."""

    attention_flops: AttentionFlops | None = "full"

    def __init__(self, config: LinearAttentionConfig, dim: int) -> None:
        super().__init__()
        if config.head_dim is None and dim % config.heads:
            raise ValueError(f"dim {dim} is not a multiple of {config.heads} heads: change one of them, or set head_dim")
        self.head_dim = config.head_dim or dim // config.heads
        if config.rotary and self.head_dim % 2:
            raise ValueError(
                f"rotary positions rotate pairs of channels, but head_dim is {self.head_dim}: make it even or set rotary=false"
            )
        self.config = config
        inner = config.heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * inner)
        self.out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_width(x, self.qkv.in_features)
        check_mask(x, mask)
        q, k, v = self._project(x)
        rotation, _ = self._rotation(x, [0], None)
        y = linear_attention(q, k, v, rotation=rotation, mask=mask, chunk=self.config.chunk)
        y = self.out(y.flatten(2))
        return y if mask is None else y * mask.unsqueeze(-1)

    def init_state(self, batch: int, max_len: int) -> RunningSums:
        weight, heads, dim = self.out.weight, self.config.heads, self.head_dim
        dtype = at_least_float32(weight.dtype)
        products = torch.zeros(batch, heads, dim, dim, dtype=dtype, device=weight.device)
        return RunningSums(products, torch.zeros(batch, heads, dim, dtype=dtype, device=weight.device), [0] * batch)

    def prefill(self, x: Tensor, state: RunningSums, lengths: Sequence[int] | None = None) -> Tensor:
        check_width(x, self.qkv.in_features)
        n, starts = x.shape[1], state.lengths
        counts = [n] * x.shape[0] if lengths is None else list(lengths)
        mask = None
        if min(counts, default=n) < n:
            mask = length_mask(counts, n, x.device)
        q, k, v = self._project(x)
        rotation, state.rotary = self._rotation(x, starts, state.rotary)
        sums = (state.products, state.keys)
        y, (state.products, state.keys) = continue_linear_attention(q, k, v, sums, rotation=rotation, mask=mask, chunk=self.config.chunk)
        state.lengths = [start + count for start, count in zip(starts, counts, strict=True)]
        return self.out(y.flatten(2))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, n, H, d)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.config.heads, self.head_dim)).unbind(2)
        return q, k, v

    def _rotation(self, x: Tensor, starts: Sequence[int], steps: RotarySteps | None) -> tuple[Rotation | None, RotarySteps | None]:
        """See ``next_rotation``; of x (B, n, D) from ``starts`` on."""
        if not self.config.rotary:
            return None, None
        return next_rotation(steps, starts, x.shape[1], self.head_dim, self.config.rotary_base, at_least_float32(x.dtype), x.device)
