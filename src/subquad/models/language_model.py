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
from pydantic import model_validator
from torch import Tensor, nn

from subquad.config import with_changes
from subquad.layers.attention import AttentionConfig
from subquad.layers.feedforward import FeedForwardConfig
from subquad.layers.hyena import HyenaConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.long_filter import ImplicitFilterConfig
from subquad.layers.m2_gpt_mixer import M2GptMixerConfig
from subquad.layers.stack import Stack, StackConfig, StackState, init_weights, scale_output
from subquad.models.base import CausalModel, CausalModelConfig, ModelState, Output, Spectra, check_causal, cut_to_span
from subquad.ops.ragged import run_index


class LanguageModelConfig(CausalModelConfig):
    """``positions`` are learned vectors added to the embeddings; a mixer may have its own (``stack.mixer.rotary``).

    ``start`` is what the first id is predicted from: a learned vector, or nothing ("none", as in models of other code that begin with an
    id of the text): then its logits are zeros, and a context of ``max_len`` is read by ``max_len`` positions.
    ``scale_residual`` starts the maps that add to the residual stream smaller by the root of their number, as GPT-2 does: two a block, one
    where there is no feed-forward.
    """

    kind: Literal["language_model"] = "language_model"
    stack: StackConfig
    positions: Literal["learned", "none"] = "none"
    tied: bool = True
    start: Literal["learned", "none"] = "learned"
    scale_residual: bool = False

    @model_validator(mode="after")
    def _predicts(self) -> LanguageModelConfig:
        check_causal(self.stack, "a language model")
        return self

    @property
    def width(self) -> int:
        return self.stack.dim

    @property
    def reads_empty(self) -> bool:
        return self.start != "none"

    def build(self) -> LanguageModel:
        return LanguageModel(self)


@dataclass
class LanguageModelState(ModelState):
    """See ``ModelState``."""

    stack: StackState


class LanguageModel(CausalModel[LanguageModelState]):
    """See the module's docstring."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config: LanguageModelConfig = config
        dim = config.stack.dim
        self.embedding = nn.Embedding(config.vocab, dim)
        self.start = nn.Parameter(torch.empty(dim)) if config.start == "learned" else None
        self.positions = nn.Embedding(config.max_len, dim) if config.positions == "learned" else None
        self.stack = Stack(config.stack, config.max_len)
        self.head = None if config.tied else nn.Linear(dim, config.vocab, bias=False)
        init_weights(self, config.init_std)
        if config.scale_residual:
            self._scale_residual()

    def forward(
        self,
        ids: Tensor,
        span: tuple[int, int] | None = None,
        spectra: Spectra | None = None,
        *,
        output: Output = "logits",
    ) -> Tensor:
        """See ``CausalModel.forward``; ``spectra`` as ``prepare`` made them."""
        batch, length = self._check_ids(ids)
        if output == "hidden":
            return self._hidden(ids, spectra)
        if length < 2 and (length == 0 or self.start is None):
            return cut_to_span(self._zeros(batch, length), span)
        logits = self._logits(self._hidden(ids[:, :-1], spectra))
        return cut_to_span(logits if self.start is not None else torch.cat((self._zeros(batch, 1), logits), 1), span)

    def _hidden(self, ids: Tensor, spectra: Spectra | None) -> Tensor:
        x = self._embed(ids, [0])
        x = x if self.start is None else torch.cat((self.start.expand(len(ids), 1, -1), x), 1)
        return self.stack(x, None, spectra)

    def id_tables(self) -> list[Tensor]:
        return [self.embedding.weight]

    def prepare(self, length: int | None = None) -> Spectra:
        """What depends on the weights alone, for inputs of up to ``length`` ids: filter spectra. It holds until they change."""
        return self.stack.prepare(self._room(length) + (self.start is not None))

    def init_state(self, batch: int, max_len: int | None = None) -> LanguageModelState:
        room = self._room(max_len)
        if self.start is None:
            return LanguageModelState(self._zeros(batch, 1).squeeze(1), [0] * batch, room, self.stack.init_state(batch, max(room, 1)))
        stack = self.stack.init_state(batch, room + 1)
        logits = self._logits(self.stack.step(self.start.expand(batch, -1), stack))
        return LanguageModelState(logits, [0] * batch, room, stack)

    def _advance(self, ids: Tensor, counts: Sequence[int], state: LanguageModelState) -> Tensor:
        return self._logits(self.stack.prefill(self._embed(ids, state.lengths), state.stack, counts))

    def _embed(self, ids: Tensor, starts: Sequence[int]) -> Tensor:
        x = self.embedding(ids)
        if self.positions is not None:
            index = run_index(starts, ids.shape[1], ids.device).clamp(max=self.config.max_len - 1)
            x = x + self.positions(index)
        return x

    def _zeros(self, batch: int, length: int) -> Tensor:
        return self.embedding.weight.new_zeros(batch, length, self.config.vocab)

    def _scale_residual(self) -> None:
        sublayers = self.config.stack.depth * (1 if self.config.stack.feedforward is None else 2)
        for block in self.stack.blocks:
            for linear in (getattr(block.mixer, "out", None), getattr(block.feedforward, "down", None)):
                if linear is not None:
                    scale_output(linear, sublayers**-0.5)

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


PILE_FILTER = ImplicitFilterConfig(features=33, width=64, frequency=14.0, learned_features=True, init_std=0.02)


def hyena(dim: int, depth: int, expand: float = 4.0, order: int = 2) -> LanguageModelConfig:
    """Hyena as trained on The Pile (table A.4 and the official code): GPT-2's vocabulary, 2,048 tokens, no start vector."""
    feedforward = FeedForwardConfig(expand=expand, activation="gelu_tanh")
    stack = StackConfig(dim=dim, depth=depth, mixer=HyenaConfig(order=order, filter=PILE_FILTER), feedforward=feedforward)
    return LanguageModelConfig(vocab=50_264, max_len=2048, stack=stack, init_std=0.02, start="none", scale_residual=True)


def hyena_bytes(dim: int, depth: int, max_len: int = 1024) -> LanguageModelConfig:
    """A Hyena on bytes for a CPU, with a filter network as narrow as its layers. Starting its filters smooth helps on text at this size."""
    mixer = HyenaConfig(filter=ImplicitFilterConfig(features=9, width=32, frequency=1.0))
    return LanguageModelConfig(max_len=max_len, stack=StackConfig(dim=dim, depth=depth, mixer=mixer), init_std=0.08)


def m2_gpt(dim: int, depth: int, heads: int) -> LanguageModelConfig:
    """M2-GPT at the sizes of its paper (table 8), whose widths and depths are not known: our reconstruction.

    Hyena's setup on The Pile, with heads that share the filters and no feed-forwards; the width of the Hyena that it was compared with,
    and as many blocks as its parameters allow.
    """
    mixer = M2GptMixerConfig(heads=heads, filter=PILE_FILTER)
    return with_changes(hyena(dim, depth), {"stack.mixer": mixer, "stack.feedforward": None})


def m2_gpt_bytes(dim: int, depth: int, heads: int, max_len: int = 1024) -> LanguageModelConfig:
    """An M2-GPT on bytes for a CPU. Three of its blocks have the weights of one Hyena block with its feed-forward."""
    mixer = M2GptMixerConfig(heads=heads, filter=ImplicitFilterConfig(features=9, width=32, frequency=1.0))
    stack = StackConfig(dim=dim, depth=depth, mixer=mixer, feedforward=None)
    return LanguageModelConfig(max_len=max_len, stack=stack, init_std=0.08, scale_residual=True)


PRESETS: dict[str, LanguageModelConfig] = {
    "transformer-tiny": transformer(64, 2, 2, init_std=0.08),
    "transformer-small": transformer(96, 2, 3, init_std=0.08),
    "linear-transformer-tiny": linear_transformer(64, 2, 2, init_std=0.08),
    "linear-transformer-small": linear_transformer(96, 2, 3, init_std=0.08),
    "hyena-tiny": hyena_bytes(64, 2),
    "hyena-small": hyena_bytes(96, 3),
    "hyena-125m": hyena(768, 12),
    "hyena-125m-o3": hyena(768, 12, order=3),
    "hyena-125m-slim": hyena(768, 18, expand=2),
    "hyena-153m": hyena(864, 18, expand=2),
    "hyena-355m": hyena(1024, 36, expand=2),
    "hyena-1.3b": hyena(2048, 36, expand=2),
    "m2-gpt-tiny": m2_gpt_bytes(64, 6, heads=4),
    "m2-gpt-small": m2_gpt_bytes(96, 9, heads=4),
    "m2-gpt-145m": m2_gpt(864, 33, heads=12),
    "m2-gpt-360m": m2_gpt(1024, 72, heads=16),
    "transformer-125m": transformer(768, 12, 12, dropout=0.1),  # S1
    "transformer-350m": transformer(1024, 24, 16, dropout=0.1),  # S2
    "transformer-760m": transformer(1536, 24, 16, dropout=0.1),  # S3
    "transformer-1.3b": transformer(2048, 24, 32, dropout=0.1),  # S4
    "transformer-2.7b": transformer(2560, 32, 32, dropout=0.1),  # S5
    "transformer-6.7b": transformer(4096, 32, 32, dropout=0.1),  # S6
}
