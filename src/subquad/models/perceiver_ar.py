"""PerceiverAR (arXiv 2202.07765), the long-context baseline of the MEGABYTE paper: a few latents read a long context once.

    x[0] = start,  x[t] = E[id[t-1]]
    c = x + attention(norm(x)) over the whole past,  c = c + feedforward(norm(c))     (the reader: cross-attention)
    y[t] = stack(c[w], ..., c[t])[t]  with  w = max(0, (floor(t / (N/2)) - 1) N/2),  logits = W y

The stack sees N latents: position t is in the second half of the window that starts at w, or anywhere in the first window.
Cost in T: T^2 for the reader's scores and two runs of the stack a position, each over N. A training step learns one window: T N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.config import with_changes
from subquad.layers.attention import AttentionConfig
from subquad.layers.base import FilterSpectra
from subquad.layers.feedforward import FeedForwardConfig
from subquad.layers.stack import Block, Stack, StackConfig, StackState, init_weights
from subquad.models.base import CausalModel, CausalModelConfig, ModelState, Output, check_causal
from subquad.ops.ragged import put_rows, take_rows
from subquad.state import State


def latent_stack(dim: int, depth: int, heads: int, dropout: float = 0.1) -> StackConfig:
    """A stack with PerceiverAR's own layers: rotary positions on half the channels of a head, squared ReLU."""
    mixer = AttentionConfig(heads=heads, rotary_fraction=0.5, dropout=dropout)
    feedforward = FeedForwardConfig(activation="squared_relu")
    return StackConfig(dim=dim, depth=depth, mixer=mixer, feedforward=feedforward, dropout=dropout)


class PerceiverARConfig(CausalModelConfig):
    """``latents`` is N, an even number; ``stack`` is over the latents and gives the reader its layers too.

    ``cross_heads`` are the reader's heads (default: the stack's). A head that is not ``tied`` to the embedding starts at zero.
    """

    kind: Literal["perceiver_ar"] = "perceiver_ar"
    latents: int = Field(1024, gt=0)
    stack: StackConfig = latent_stack(1024, 12, 16)
    cross_heads: int | None = Field(None, gt=0)
    tied: bool = False

    @property
    def width(self) -> int:
        return self.stack.dim

    @property
    def reader(self) -> StackConfig:
        """The reader's layers: those of the stack, over the whole past."""
        heads = {} if self.cross_heads is None else {"heads": self.cross_heads}
        whole = with_changes(self.stack.mixer, {**heads, "window": None})
        return StackConfig.model_validate({**dict(self.stack), "mixer": whole, "depth": 1, "overrides": {}})

    @model_validator(mode="after")
    def _fits(self) -> PerceiverARConfig:
        if self.latents % 2:
            raise ValueError(f"windows of latents overlap by half, so latents must be even, got {self.latents}")
        if not isinstance(self.stack.mixer, AttentionConfig):
            kind = self.stack.mixer.kind
            raise ValueError(f"a PerceiverAR reads its context by attention, got stack.mixer.kind {kind!r}: set 'attention'")
        check_causal(self.reader, "a PerceiverAR")
        check_causal(self.stack, "a PerceiverAR")
        return self

    def build(self) -> PerceiverAR:
        return PerceiverAR(self)


@dataclass
class LatentsState(State):
    """``recent`` (B, N / 2, D) are the newest latents, those that the next window opens with; ``stack`` is at each row's open window."""

    recent: Tensor
    stack: StackState
    lengths: list[int]


@dataclass
class PerceiverARState(ModelState):
    """``reader`` holds the keys and values of the whole context."""

    reader: State
    latents: LatentsState


class Reader(Block):
    """A block whose attention sees the whole past. One norm serves queries and keys: the linear maps after it can rescale each."""

    def forward(self, x: Tensor, mask: Tensor | None = None, spectra: FilterSpectra | None = None, first: int = 0) -> Tensor:
        """(B, T, D) -> (B, T - first, D), from position ``first`` on."""
        return self._leaving(x[:, first:], self.mixer(self._entering(x), mask, first))


class Latents(nn.Module):
    """A stack over windows of N = ``size`` positions that start N / 2 apart; (B, T, D) -> (B, T, D), causal.

    Each window gives its second half, the first one all. Cost in T: that of 2 T / N windows.
    """

    def __init__(self, config: StackConfig, size: int) -> None:
        super().__init__()
        self.stack = Stack(config, size)
        self.size, self.overlap = size, size // 2

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        if length <= self.size:
            return self.stack(x)
        halves = F.pad(x, (0, 0, 0, -length % self.overlap)).unflatten(1, (-1, self.overlap))  # (B, W + 1, N / 2, D)
        windows = torch.cat((halves[:, :-1], halves[:, 1:]), 2)  # (B, W, N, D)
        y = self.stack(windows.flatten(0, 1)).unflatten(0, (batch, -1))  # (B, W, N, D)
        return torch.cat((y[:, 0], y[:, 1:, self.overlap :].flatten(1, 2)), 1)[:, :length]

    def init_state(self, x: Tensor, max_len: int) -> LatentsState:
        """See ``Mixer.init_state``; ``x`` (B, n, D) are the first positions, not taken yet."""
        batch, _, dim = x.shape
        recent = x.new_zeros(batch, self.overlap, dim)
        return LatentsState(recent, self.stack.init_state(batch, min(max_len, self.size)), [0] * batch)

    def prefill(self, x: Tensor, state: LatentsState, lengths: Sequence[int]) -> Tensor:
        """See ``Mixer.prefill``. A row that comes to a new window reads the N / 2 latents before it once more, from its start."""
        remaining, done, y = list(lengths), [0] * len(lengths), torch.zeros_like(x)
        latents = torch.cat((state.recent, x), 1)  # (B, N / 2 + n, D); the next position of row b is at overlap + done[b]
        while max(remaining):
            opens = [self._opens(start) and rest > 0 for start, rest in zip(state.lengths, remaining, strict=True)]
            if any(opens):
                state.stack.reset(opens, self.stack.init_state(len(opens), self.size))
            again = [self.overlap if opening else 0 for opening in opens]  # latents that a new window reads once more
            counts = [min(self._room(start), rest) for start, rest in zip(state.lengths, remaining, strict=True)]
            reads = [count + more for count, more in zip(counts, again, strict=True)]
            starts = [self.overlap + before - more for before, more in zip(done, again, strict=True)]
            part = self.stack.prefill(take_rows(latents, starts, max(reads)), state.stack, reads)  # (B, max(reads), D)
            put_rows(y, done, take_rows(part, again, max(counts)))  # past a row's count its next window overwrites this
            state.lengths = [start + count for start, count in zip(state.lengths, counts, strict=True)]
            done = [before + count for before, count in zip(done, counts, strict=True)]
            remaining = [rest - count for rest, count in zip(remaining, counts, strict=True)]
        state.recent = take_rows(latents, done, self.overlap).clone()
        return y

    def _opens(self, position: int) -> bool:
        """Whether a window other than the first gives its first output here."""
        return position >= self.size and position % self.overlap == 0

    def _room(self, position: int) -> int:
        """Positions from here on in the same window."""
        return self.size - position if position < self.size else self.overlap - position % self.overlap


class PerceiverAR(CausalModel[PerceiverARState]):
    """See the module's docstring."""

    def __init__(self, config: PerceiverARConfig) -> None:
        super().__init__()
        self.config: PerceiverARConfig = config
        dim = config.stack.dim
        self.embedding = nn.Embedding(config.vocab, dim)
        self.start = nn.Parameter(torch.empty(dim))
        self.reader = Reader(config.reader, config.reader.mixer.build(dim, config.max_len))
        self.latents = Latents(config.stack, config.latents)
        self.head = None if config.tied else nn.Linear(dim, config.vocab)
        init_weights(self, config.init_std)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, ids: Tensor, span: tuple[int, int] | None = None, *, output: Output = "logits") -> Tensor:
        """See ``CausalModel.forward``. A span is one window: at most N positions.

        In the second half of a window of the whole, and in all of the first one, its logits are those without a span; the positions of a
        first half have seen less than there.
        """
        batch, length = self._check_ids(ids)
        if output == "hidden":
            return self._hidden(F.pad(ids, (0, 1)))
        if span is not None:
            first, end = span
            if not 0 <= first < end <= min(length, first + self.latents.size):
                raise ValueError(
                    f"a span must be within {length} ids and hold 1 to {self.latents.size} positions, got {first} to {end}: "
                    "use one of training_spans"
                )
            return self._logits(self.latents.stack(self.reader(self._inputs(ids[:, :end]), first=first)))
        if length == 0:
            return self.start.new_zeros(batch, 0, self.config.vocab)
        return self._logits(self._hidden(ids))

    def _hidden(self, ids: Tensor) -> Tensor:
        """The latents at T > 0 positions, (B, T) -> (B, T, D); position t has seen the ids before t."""
        return self.latents(self.reader(self._inputs(ids)))

    def id_tables(self) -> list[Tensor]:
        return [self.embedding.weight]

    def training_spans(self, length: int) -> list[tuple[int, int]]:
        """The windows that ``forward`` runs: each starts a multiple of N / 2 and holds positions that no earlier one gives."""
        last = max(-(-length // self.latents.overlap) - 2, 0) * self.latents.overlap
        return [(first, min(first + self.latents.size, length)) for first in range(0, last + 1, self.latents.overlap)]

    def init_state(self, batch: int, max_len: int | None = None) -> PerceiverARState:
        room = self._room(max_len)
        reader = self.reader.init_state(batch, room + 1)
        start = self.reader.prefill(self.start.expand(batch, 1, -1), reader)  # (B, 1, D)
        latents = self.latents.init_state(start, room + 1)
        logits = self._logits(self.latents.prefill(start, latents, [1] * batch).squeeze(1))
        return PerceiverARState(logits, [0] * batch, room, reader, latents)

    def _advance(self, ids: Tensor, counts: Sequence[int], state: PerceiverARState) -> Tensor:
        read = self.reader.prefill(self.embedding(ids), state.reader, counts)
        return self._logits(self.latents.prefill(read, state.latents, counts))

    def _inputs(self, ids: Tensor) -> Tensor:
        return torch.cat((self.start.expand(ids.shape[0], 1, -1), self.embedding(ids[:, :-1])), 1)

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)


def perceiver_ar(
    dim: int, depth: int, heads: int, max_len: int, latents: int, init_std: float = 0.006, dropout: float = 0.1
) -> PerceiverARConfig:
    """A byte PerceiverAR with the original's layers."""
    return PerceiverARConfig(max_len=max_len, latents=latents, stack=latent_stack(dim, depth, heads, dropout), init_std=init_std)


PRESETS: dict[str, PerceiverARConfig] = {
    "perceiver-ar-tiny": perceiver_ar(64, 2, 2, 1024, 256, init_std=0.08, dropout=0.0),
    "perceiver-ar-small": perceiver_ar(96, 2, 3, 2048, 256, init_std=0.08, dropout=0.0),
    # MEGABYTE Table 15; heads from the widths of Table 14
    "perceiver-ar-arxiv": perceiver_ar(1024, 17, 16, 8192, 1024),
    "perceiver-ar-image64": perceiver_ar(1024, 16, 16, 12_288, 1024),
    "perceiver-ar-image256": perceiver_ar(768, 6, 12, 8192, 768),
    "perceiver-ar-image640": perceiver_ar(768, 6, 12, 4096, 1024),
    "perceiver-ar-audio": perceiver_ar(768, 6, 12, 8192, 1024),
}
