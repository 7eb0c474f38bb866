"""Blocks and stacks of a mixer and a feed-forward.

    norm="before":   x + mixer(norm(x)),    then   x + feedforward(norm(x)),   and a norm after the last block
    norm="after":    norm(x + mixer(x)),    then   norm(x + feedforward(x)),   as in BERT;   M2-BERT has mixer(x) alone for the first

The initialisation is MEGABYTE's (appendix A.1): weights from a normal distribution truncated at two standard deviations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.config import Config
from subquad.layers.base import FilterSpectra, Mixer, MixerConfig
from subquad.layers.feedforward import FeedForward, FeedForwardConfig
from subquad.layers.registry import AnyMixerConfig
from subquad.state import State


class StackConfig(Config):
    """``depth`` blocks of width ``dim``; ``dropout`` is on what each sublayer adds; ``feedforward`` may be None (M2-GPT has none).

    ``mixer_residual=False``, with ``norm="after"``, leaves out what goes around the mixer, and its norm.
    ``overrides`` are the blocks of a hybrid that have another mixer than ``mixer``, by their number from 0.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"others": "overrides"}

    dim: int = Field(gt=0)
    depth: int = Field(ge=0)
    mixer: AnyMixerConfig
    overrides: dict[int, AnyMixerConfig] = {}
    feedforward: FeedForwardConfig | None = FeedForwardConfig()
    norm: Literal["before", "after"] = "before"
    norm_eps: float = Field(1e-5, gt=0)
    mixer_residual: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)

    @property
    def mixers(self) -> list[MixerConfig]:
        """The mixer of each block."""
        return [self.overrides.get(index, self.mixer) for index in range(self.depth)]

    @model_validator(mode="after")
    def _overrides_exist(self) -> StackConfig:
        if wrong := [index for index in self.overrides if not 0 <= index < self.depth]:
            raise ValueError(f"overrides names block {wrong[0]}, but the blocks are 0 to {self.depth - 1}: name one of them")
        return self

    @model_validator(mode="after")
    def _connected(self) -> StackConfig:
        if not self.mixer_residual and (self.norm == "before" or self.feedforward is None):
            raise ValueError('mixer_residual=false is for blocks with a feed-forward and norm="after": leave it out')
        return self


@dataclass
class StackState(State):
    """One mixer state a block."""

    blocks: list[State]


class Block(nn.Module):
    """A mixer and a feed-forward with norms and residuals; (B, T, D) -> (B, T, D). See the module's docstring."""

    def __init__(self, config: StackConfig, mixer: Mixer) -> None:
        super().__init__()
        self.before = config.norm == "before"
        self.mixer_norm = nn.LayerNorm(config.dim, config.norm_eps) if config.mixer_residual else None
        self.mixer = mixer
        self.feedforward_norm = nn.LayerNorm(config.dim, config.norm_eps) if config.feedforward else None
        self.feedforward = FeedForward(config.feedforward, config.dim) if config.feedforward else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None, spectra: FilterSpectra | None = None) -> Tensor:
        inner = self._entering(x)
        return self._leaving(x, self.mixer(inner, mask) if spectra is None else self.mixer(inner, mask, spectra))

    def init_state(self, batch: int, max_len: int) -> State:
        """See ``Mixer.init_state``."""
        return self.mixer.init_state(batch, max_len)

    def prefill(self, x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
        """See ``Mixer.prefill``."""
        return self._leaving(x, self.mixer.prefill(self._entering(x), state, lengths))

    def _entering(self, x: Tensor) -> Tensor:
        """What the mixer reads."""
        return self.mixer_norm(x) if self.before and self.mixer_norm is not None else x

    def _leaving(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The block's output, of its input and of what the mixer made of it."""
        x = mixed if self.mixer_norm is None else x + self.dropout(mixed)
        if not self.before and self.mixer_norm is not None:
            x = self.mixer_norm(x)
        if self.feedforward is None or self.feedforward_norm is None:
            return x
        if self.before:
            return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class Stack(nn.Module):
    """Blocks, and a final norm where theirs come before; (B, T, D) -> (B, T, D), causal where the mixers are.

    See ``MixerConfig`` for the other arguments.
    """

    def __init__(self, config: StackConfig, max_len: int, segment: int | None = None, lookback: int = 0) -> None:
        super().__init__()
        mixers = [
            mixer.build(config.dim, max_len) if segment is None else mixer.build_segmented(config.dim, segment, lookback)
            for mixer in config.mixers
        ]
        blocks = nn.ModuleList(Block(config, mixer) for mixer in mixers)
        self.blocks = cast("Sequence[Block]", blocks)
        self.alike = not config.overrides
        self.norm = nn.LayerNorm(config.dim, config.norm_eps) if config.norm == "before" else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None, spectra: Sequence[FilterSpectra | None] | None = None) -> Tensor:
        if spectra is not None and len(spectra) != len(self.blocks):
            raise ValueError(f"expected the spectra of {len(self.blocks)} blocks, got {len(spectra)}: prepare with this model")
        for index, block in enumerate(self.blocks):
            x = block(x, mask, None if spectra is None else spectra[index])
        y: Tensor = self.norm(x)
        return y

    def prepare(self, length: int) -> list[FilterSpectra | None]:
        """See ``Mixer.prepare``, one for each block."""
        return [block.mixer.prepare(length) for block in self.blocks]

    def init_state(self, batch: int, max_len: int) -> StackState:
        """See ``Mixer.init_state``."""
        return StackState([block.init_state(batch, max_len) for block in self.blocks])

    def prefill(self, x: Tensor, state: StackState, lengths: Sequence[int] | None = None) -> Tensor:
        """See ``Mixer.prefill``."""
        for block, inner in zip(self.blocks, state.blocks, strict=True):
            x = block.prefill(x, inner, lengths)
        y: Tensor = self.norm(x)
        return y

    def step(self, x: Tensor, state: StackState) -> Tensor:
        """See ``Mixer.step``."""
        return self.prefill(x.unsqueeze(1), state).squeeze(1)


def init_weights(module: nn.Module, std: float) -> None:
    """Weights of linear maps, convolutions and tables, and the start vectors, from N(0, std) cut off at two std; biases zero.

    A module with a method ``init_weights(std)`` draws its weights itself.
    """
    method = getattr(module, "init_weights", None)
    if method is not None:
        method(std)
        return
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(module, nn.LayerNorm):
            continue
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
    for child in module.children():
        init_weights(child, std)


@torch.no_grad()
def scale_output(linear: nn.Module, by: float) -> None:
    """Makes what a linear map gives, its bias apart, ``by`` times as large. One without a ``weight`` has a method ``scale(by)``."""
    method = getattr(linear, "scale", None)
    if method is not None:
        method(by)
    else:
        linear.get_parameter("weight").mul_(by)
