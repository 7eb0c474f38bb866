"""A causal language model: embedding, one stack, logits. With attention it is the byte Transformer (GPT) of the MEGABYTE paper.

    x[0] = start,  x[t] = E[id[t-1]] + pos[t-1];  logits[t] = E stack(x)[t]

Cost in T: that of the stack's mixer. Sizes: MEGABYTE Table 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.layers.attention import AttentionConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.stack import Stack, StackConfig, StackState, init_weights
from subquad.models.model import CausalModel, ModelConfig, ModelState
from subquad.ops.rows import run_index


class LanguageModelConfig(ModelConfig):
    """``positions`` are learned vectors added to the embeddings; a mixer may have positions of its own (``stack.mixer.rotary``)."""

    kind: Literal["language_model"] = "language_model"
    stack: StackConfig
    positions: Literal["learned", "none"] = "none"
    tied: bool = True

    @property
    def width(self) -> int:
        return self.stack.dim

    def build(self) -> LanguageModel:
        return LanguageModel(self)


@dataclass
class LanguageModelState(ModelState):
    """See ``ModelState``."""

    stack: StackState


class LanguageModel(CausalModel):
    """See the module's docstring."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config: LanguageModelConfig = config
        dim = config.stack.dim
        self.embedding = nn.Embedding(config.vocab, dim)
        self.start = nn.Parameter(torch.empty(dim))
        self.positions = nn.Embedding(config.max_len, dim) if config.positions == "learned" else None
        self.stack = Stack(config.stack)
        self.head = None if config.tied else nn.Linear(dim, config.vocab, bias=False)
        init_weights(self, config.init_std)

    def forward(self, ids: Tensor) -> Tensor:
        batch, length = ids.shape
        self._check_length(length)
        if length == 0:
            return self.start.new_zeros(batch, 0, self.config.vocab)
        return self._logits(self.hidden(ids[:, :-1]))

    def hidden(self, ids: Tensor) -> Tensor:
        """What logits are read from, (B, n) -> (B, n + 1, D): vector t has seen the first t ids, the last one all of them.

        Raises ``ValueError`` when n exceeds max_len.
        """
        self._check_length(ids.shape[1])
        start = self.start.expand(len(ids), 1, -1)
        return self.stack(torch.cat((start, self._embed(ids, [0])), 1))

    def init_state(self, batch: int, max_len: int | None = None) -> LanguageModelState:
        room = self._room(max_len)
        stack = self.stack.init_state(batch, room + 1)
        logits = self._logits(self.stack.step(self.start.expand(batch, -1), stack))
        return LanguageModelState(logits, [0] * batch, room, stack)

    def _advance(self, ids: Tensor, counts: Sequence[int], state: ModelState) -> Tensor:
        assert isinstance(state, LanguageModelState)
        return self._logits(self.stack.prefill(self._embed(ids, state.lengths), state.stack, counts))

    def _embed(self, ids: Tensor, starts: Sequence[int]) -> Tensor:
        x = self.embedding(ids)
        if self.positions is not None:
            index = run_index(starts, ids.shape[1], ids.device).clamp(max=self.config.max_len - 1)
            x = x + self.positions(index)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)


def transformer(
    dim: int, depth: int, heads: int, max_len: int = 1024, init_std: float = 0.006, dropout: float = 0.0
) -> LanguageModelConfig:
    """A byte Transformer with rotary positions."""
    stack = StackConfig(dim=dim, depth=depth, mixer=AttentionConfig(heads=heads, dropout=dropout), dropout=dropout)
    return LanguageModelConfig(max_len=max_len, stack=stack, init_std=init_std)


def linear_transformer(
    dim: int, depth: int, heads: int, max_len: int = 1024, init_std: float = 0.006, dropout: float = 0.0
) -> LanguageModelConfig:
    """The same with linear attention: a cost linear in T, and a decoding state of one size."""
    stack = StackConfig(dim=dim, depth=depth, mixer=LinearAttentionConfig(heads=heads, rotary=True), dropout=dropout)
    return LanguageModelConfig(max_len=max_len, stack=stack, init_std=init_std)


PRESETS: dict[str, LanguageModelConfig] = {
    "transformer-tiny": transformer(64, 2, 2, init_std=0.08),
    "transformer-small": transformer(96, 2, 3, init_std=0.08),
    "linear-transformer-tiny": linear_transformer(64, 2, 2, init_std=0.08),
    "linear-transformer-small": linear_transformer(96, 2, 3, init_std=0.08),
    "transformer-125m": transformer(768, 12, 12, dropout=0.1),  # S1
    "transformer-350m": transformer(1024, 24, 16, dropout=0.1),  # S2
    "transformer-760m": transformer(1536, 24, 16, dropout=0.1),  # S3
    "transformer-1.3b": transformer(2048, 24, 32, dropout=0.1),  # S4
    "transformer-2.7b": transformer(2560, 32, 32, dropout=0.1),  # S5
    "transformer-6.7b": transformer(4096, 32, 32, dropout=0.1),  # S6
}
