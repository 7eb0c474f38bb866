"""Blocks and stacks: pre-norm residual blocks of a mixer and a feed-forward, x + mixer(norm(x)), x + feedforward(norm(x)).

The initialisation is MEGABYTE's (appendix A.1): weights from a normal distribution cut off at two standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import Field
from torch import Tensor, nn

from subquad.config import Config
from subquad.layers.feedforward import FeedForward, FeedForwardConfig
from subquad.layers.mixer import Mixer
from subquad.layers.mixers import AnyMixerConfig
from subquad.state import State


class StackConfig(Config):
    """``depth`` blocks of width ``dim``; ``dropout`` is on what each sublayer adds."""

    dim: int = Field(gt=0)
    depth: int = Field(ge=0)
    mixer: AnyMixerConfig
    feedforward: FeedForwardConfig = FeedForwardConfig()
    dropout: float = Field(0.0, ge=0, lt=1)


@dataclass
class StackState(State):
    """One mixer state a block."""

    blocks: list[State]


class Block(nn.Module):
    """Norm, mixer, norm, feed-forward, with residuals; (B, T, D) -> (B, T, D)."""

    def __init__(self, config: StackConfig, segment: int | None = None, lookback: int = 0) -> None:
        super().__init__()
        self.mixer_norm = nn.LayerNorm(config.dim)
        mixer, dim = config.mixer, config.dim
        self.mixer: Mixer = mixer.build(dim) if segment is None else mixer.build_segmented(dim, segment, lookback)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config.feedforward, config.dim)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.mixer(self.mixer_norm(x), mask))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))

    def init_state(self, batch: int, max_len: int) -> State:
        """See ``Mixer.init_state``."""
        return self.mixer.init_state(batch, max_len)

    def prefill(self, x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
        """See ``Mixer.prefill``."""
        x = x + self.mixer.prefill(self.mixer_norm(x), state, lengths)
        return x + self.feedforward(self.feedforward_norm(x))


class Stack(nn.Module):
    """Blocks and a final norm; (B, T, D) -> (B, T, D), causal. See ``MixerConfig.build_segmented`` for the other arguments."""

    def __init__(self, config: StackConfig, segment: int | None = None, lookback: int = 0) -> None:
        super().__init__()
        blocks = nn.ModuleList(Block(config, segment, lookback) for _ in range(config.depth))
        self.blocks = cast("Sequence[Block]", blocks)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def init_state(self, batch: int, max_len: int) -> StackState:
        """See ``Mixer.init_state``."""
        return StackState([block.init_state(batch, max_len) for block in self.blocks])

    def prefill(self, x: Tensor, state: StackState, lengths: Sequence[int] | None = None) -> Tensor:
        """See ``Mixer.prefill``."""
        for block, inner in zip(self.blocks, state.blocks, strict=True):
            x = block.prefill(x, inner, lengths)
        return self.norm(x)

    def step(self, x: Tensor, state: StackState) -> Tensor:
        """See ``Mixer.step``."""
        return self.prefill(x.unsqueeze(1), state).squeeze(1)


def init_weights(model: nn.Module, std: float) -> None:
    """Weights of linear maps, convolutions and tables, and the start vectors, from N(0, std) cut off at two std; biases zero."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm):
                continue
            if name == "bias":
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
