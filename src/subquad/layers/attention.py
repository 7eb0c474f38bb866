"""Self-attention, causal or two-sided: softmax(q k^T / sqrt(d)) v over H heads of d channels, with rotary positions if asked.

Over the whole past it costs T^2; over a window w, T * w; over segments of P with lookback r (MEGABYTE's local model), T * (P + r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.layers.base import AttentionFlops, Mixer, MixerConfig, check_mask, check_width
from subquad.ops.attention import attend, causal_attention, sees, two_sided_attention
from subquad.ops.autocast import at_least_float32
from subquad.ops.ragged import put_rows, stand_together, take_rows
from subquad.ops.rotary import RotarySteps, next_rotation, rotate
from subquad.state import State


class AttentionConfig(MixerConfig):
    """``head_dim`` defaults to dim / heads; ``window`` counts the position itself; ``rotary_fraction`` is the share of a head's channels
    that rotary positions rotate, the first ones."""

    kind: Literal["attention"] = "attention"
    heads: int = Field(gt=0)
    head_dim: int | None = Field(None, gt=0)
    rotary: bool = True
    rotary_base: float = Field(10_000.0, gt=1)
    rotary_fraction: float = Field(1.0, gt=0, le=1)
    window: int | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    two_sided: bool = False

    @property
    def causal(self) -> bool:
        return not self.two_sided

    @model_validator(mode="after")
    def _whole(self) -> AttentionConfig:
        if self.two_sided and self.window is not None:
            raise ValueError(f"only causal attention has a window, got window={self.window}: set window=null or two_sided=false")
        return self

    def build(self, dim: int, max_len: int) -> Attention:
        return Attention(self, dim)

    def build_segmented(self, dim: int, segment: int, lookback: int) -> Attention:
        return Attention(self, dim, segment, lookback)


@dataclass
class KeyValues(State):
    """Rotated keys and values of the positions that later ones can see.

    Over the whole past, slot s holds position s. Over blocks of ``block`` positions (a segment or a window), slot s holds position
    ``base + s``, where base is the start of the newest position's block less ``back``: all visible positions are contiguous.
    """

    cache: Tensor  # (B, slots, 2, H, d)
    lengths: list[int]
    block: int | None
    back: int
    rotary: RotarySteps | None = None

    def base(self, position: int) -> int:
        """The position in slot 0 while ``position`` is the newest."""
        return 0 if self.block is None else max(position, 0) // self.block * self.block - self.back

    def append(self, new: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Adds (B, n, 2, H, d), of which row b keeps ``counts[b]``.

        Returns a buffer (B, m, 2, H, d) and its first position in each row: all that the new positions may see.
        """
        starts, slots, n = self.lengths, self.cache.shape[1], new.shape[1]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        if self.block is None and max(ends) > slots:
            raise ValueError(f"the decoding state holds {slots} positions and is full: give init_state a larger max_len")
        self.lengths = ends
        if self.block is None:
            put_rows(self.cache, starts, new)
            return self.cache[:, : max(starts) + n], [0] * len(starts)
        if n == 1 and min(counts) == 1 and stand_together(starts):
            return self._append_one(new, starts[0], self.block)
        bases = [self.base(start - 1) for start in starts]
        buffer = F.pad(self.cache, (0, 0, 0, 0, 0, 0, 0, n + self.block))  # (B, slots + n + block, 2, H, d)
        put_rows(buffer, [start - base for start, base in zip(starts, bases, strict=True)], new)
        shifts = [self.base(end - 1) - base for end, base in zip(ends, bases, strict=True)]  # slots that no later position sees
        self.cache = take_rows(buffer, shifts, slots).clone()
        return buffer[:, : slots + n], bases

    def _append_one(self, new: Tensor, position: int, block: int) -> tuple[Tensor, list[int]]:
        """The same of one position, (B, 1, 2, H, d), at the same place in all rows: written into its slot, and nothing is copied."""
        if position and position % block == 0 and self.back:
            self.cache[:, : self.back] = self.cache[:, block : block + self.back].clone()
        base = self.base(position)
        self.cache[:, position - base] = new[:, 0]
        return self.cache[:, : position - base + 1], [base] * len(self.lengths)


class Attention(Mixer[KeyValues]):
    """See the module's docstring. Raises ``ValueError`` when heads do not divide the width or a window meets a segment."""

    attention_flops: AttentionFlops | None = "half"

    def __init__(self, config: AttentionConfig, dim: int, segment: int | None = None, lookback: int = 0) -> None:
        super().__init__()
        if config.head_dim is None and dim % config.heads:
            raise ValueError(f"dim {dim} is not a multiple of {config.heads} heads: change one of them, or set head_dim")
        self.head_dim = config.head_dim or dim // config.heads
        self.rotary_dim = _rotary_dim(config, self.head_dim)
        if segment is not None and config.window is not None:
            raise ValueError(f"a window of {config.window} inside segments of {segment} is not supported: set window=null")
        if segment is not None and lookback > segment:
            raise ValueError(f"lookback {lookback} reaches past the previous segment, which has {segment} positions: use at most {segment}")
        if segment is not None and config.two_sided:
            raise ValueError("segments are for causal attention: set two_sided=false")
        self.config, self.segment, self.lookback = config, segment, lookback
        self.attention_flops = "full" if config.two_sided else "half"
        inner = config.heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * inner)
        self.out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, first: int = 0) -> Tensor:
        """See ``Mixer.forward``; with ``first`` only the outputs from that position on, (B, T - first, D), of unmasked positions."""
        dropout = self.config.dropout if self.training else 0.0
        if first:
            assert mask is None
            return self.out(self._latest(x, first, dropout).flatten(2))
        check_width(x, self.qkv.in_features)
        check_mask(x, mask)
        q, k, v = self._project(x, [0])
        if self.config.two_sided:
            y = self.out(two_sided_attention(q, k, v, mask=mask, dropout=dropout).flatten(2))
            return y if mask is None else y * mask.unsqueeze(-1)
        y = self.out(self._causal(q, k, v, mask, dropout).flatten(2))
        return y if mask is None else y * mask.unsqueeze(-1)

    def init_state(self, batch: int, max_len: int) -> KeyValues:
        if self.config.two_sided:
            raise ValueError("two-sided attention sees later positions, so it cannot decode: set two_sided=false to generate")
        block = self.segment or self.config.window
        back = self.lookback if self.segment else (self.config.window or 1) - 1
        weight = self.out.weight
        slots = max_len if block is None else block + back
        cache = torch.zeros(batch, slots, 2, self.config.heads, self.head_dim, dtype=weight.dtype, device=weight.device)
        return KeyValues(cache, [0] * batch, block, back)

    def prefill(self, x: Tensor, state: KeyValues, lengths: Sequence[int] | None = None) -> Tensor:
        check_width(x, self.qkv.in_features)
        n, starts = x.shape[1], state.lengths
        if not starts:
            return torch.zeros_like(x)
        counts = [n] * x.shape[0] if lengths is None else list(lengths)
        together = stand_together(starts)
        piece = 4 * state.cache.shape[1]
        if not together and state.block is not None and n > piece:  # keeps the masked form linear in n
            head = self.prefill(x[:, :piece], state, [min(count, piece) for count in counts])
            return torch.cat((head, self.prefill(x[:, piece:], state, [max(count - piece, 0) for count in counts])), 1)
        q, k, v = self._project(x, starts, state)
        buffer, bases = state.append(torch.stack((k, v), 2).to(state.cache.dtype), counts)  # (B, m, 2, H, d)
        if together and n == 1:
            newest = starts[0]
            oldest = max(newest - self.config.window + 1 if self.config.window else state.base(newest), 0)
            keys, values = buffer[:, oldest - bases[0] : newest - bases[0] + 1].unbind(2)
            y = attend(q, keys, values, None)
        elif together and (state.block is not None or starts[0] <= n):
            y = self._aligned(q, buffer, starts[0], bases[0], state.block)
        else:
            y = self._masked(q, buffer, starts, bases)
        return self.out(y.flatten(2))

    def _project(self, x: Tensor, starts: Sequence[int], state: KeyValues | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys and values of positions from ``starts`` on, each (B, n, H, d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.config.heads, self.head_dim))  # (B, n, 3, H, d)
        q, k = self._rotate(qkv[:, :, :2], starts, state).unbind(2)
        return q, k, qkv[:, :, 2]

    def _rotate(self, x: Tensor, starts: Sequence[int], state: KeyValues | None = None) -> Tensor:
        """Queries or keys of positions from ``starts`` on, (B, n, parts, H, d), with their positions."""
        if not self.rotary_dim:
            return x
        steps, dtype = None if state is None else state.rotary, at_least_float32(x.dtype)
        (cos, sin), steps = next_rotation(steps, starts, x.shape[1], self.rotary_dim, self.config.rotary_base, dtype, x.device)
        if state is not None:
            state.rotary = steps
        cos, sin = cos[..., None, None, :], sin[..., None, None, :]  # (n, 1, 1, d) or (B, n, 1, 1, d)
        if self.rotary_dim == self.head_dim:
            return rotate(x, cos, sin)
        return torch.cat((rotate(x[..., : self.rotary_dim], cos, sin), x[..., self.rotary_dim :]), -1)

    def _latest(self, x: Tensor, first: int, dropout: float) -> Tensor:
        """Attention of the queries from position ``first`` on, (B, T - first, H, d); the other queries are not even projected."""
        inner, heads = self.out.in_features, (self.config.heads, self.head_dim)
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(x[:, first:], weight[:inner], bias[:inner]).unflatten(-1, (1, *heads))  # (B, T - first, 1, H, d)
        kv = F.linear(x, weight[inner:], bias[inner:]).unflatten(-1, (2, *heads))  # (B, T, 2, H, d)
        q, k = self._rotate(q, [first]).squeeze(2), self._rotate(kv[:, :, :1], [0]).squeeze(2)
        time = torch.arange(x.shape[1], device=x.device)
        seen = sees(time[first:].unsqueeze(1), time, self.config.window, self.segment, self.lookback)  # (T - first, T)
        return attend(q, k, kv[:, :, 1], seen, dropout)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        window, segment = self.config.window, self.segment
        return causal_attention(q, k, v, window=window, segment=segment, lookback=self.lookback, mask=mask, dropout=dropout)

    def _aligned(self, q: Tensor, buffer: Tensor, start: int, base: int, block: int | None) -> Tensor:
        """Many positions, all rows at one offset: the parallel form from the start of the block before, whose queries are dummies."""
        origin = 0 if block is None else max(start // block - 1, 0) * block
        lead = start - origin  # dummies
        buffer = F.pad(buffer, (0, 0, 0, 0, 0, 0, max(base - origin, 0), 0))[:, max(origin - base, 0) :][:, : lead + q.shape[1]]
        keys, values = buffer.unbind(2)  # each (B, lead + n, H, d), from position ``origin`` on
        return self._causal(F.pad(q, (0, 0, 0, 0, lead, 0)), keys, values, None, 0.0)[:, lead:]

    def _masked(self, q: Tensor, buffer: Tensor, starts: Sequence[int], bases: Sequence[int]) -> Tensor:
        """Rows at different offsets: one mask for each."""
        keys, values = buffer.unbind(2)
        query = torch.tensor(starts, device=q.device)[:, None] + torch.arange(q.shape[1], device=q.device)  # (B, n), positions
        key = torch.tensor(bases, device=q.device)[:, None] + torch.arange(keys.shape[1], device=q.device)  # (B, m)
        seen = sees(query.unsqueeze(2), key.unsqueeze(1), self.config.window, self.segment, self.lookback)  # (B, n, m)
        return attend(q, keys, values, seen.unsqueeze(1))


def _rotary_dim(config: AttentionConfig, head_dim: int) -> int:
    """How many channels of a head rotary positions rotate. Raises ``ValueError`` when these are not pairs."""
    share = config.rotary_fraction * head_dim if config.rotary else 0.0
    count = round(share)
    if abs(count - share) > 1e-6 or count % 2 or (config.rotary and not count):
        raise ValueError(
            f"rotary positions rotate pairs of channels, but head_dim is {head_dim} and rotary_fraction {config.rotary_fraction:g} of it "
            f"are {share:g}: make it even or set rotary=false"
        )
    return count
