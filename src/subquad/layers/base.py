"""The contract of a mixer: (B, T, D) -> (B, T, D) along the sequence, in parallel, or position by position where it is causal.

``prefill`` and ``step`` continue from a state; whatever the split, the outputs equal ``forward`` on the whole sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypeVar

from subquad.config import Config
from subquad.ops.long_conv import Spectrum
from subquad.ops.ragged import put_rows, take_rows
from subquad.state import State

AttentionFlops = Literal["half", "full"]
S = TypeVar("S", bound=State, default=Any)  # a mixer's own state
FilterSpectra = tuple[Spectrum, ...]  # what a mixer's weights alone come down to, for one length


@dataclass(frozen=True)
class OptimizerHint:
    """How some parameters want to be trained: with weight decay or without, at ``rate`` times the learning rate."""

    decay: bool
    rate: float = 1.0


class Mixer(nn.Module, ABC, Generic[S]):
    """Base of the mixers. D is the model width, T the number of positions.

    A mixer that ends in a linear map calls it ``out``: models scale its initial weights by their depth.
    ``attention_flops`` is for FLOP counts: a mixer whose batched matrix products compare positions says whether what it computes needs
    "half" of what they multiply, as a causal one does, or the "full" products.
    """

    attention_flops: AttentionFlops | None = None

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D). ``mask`` (B, T) is True at real positions; the others are not read, and their outputs are zeros.

        Raises ``ValueError`` as ``check_width`` and ``check_mask`` do.
        """

    def prepare(self, length: int) -> FilterSpectra | None:
        """What depends on the weights and a length alone, for those mixers whose ``forward`` then takes it as ``spectra``."""
        return None

    @abstractmethod
    def init_state(self, batch: int, max_len: int) -> S:
        """The state before the first position, with room for ``max_len`` positions."""

    @abstractmethod
    def prefill(self, x: Tensor, state: S, lengths: Sequence[int] | None = None) -> Tensor:
        """The next n positions at once, (B, n, D) -> (B, n, D).

        Row b advances by ``lengths[b]`` (0 to n; default n); its outputs past that are meaningless and change nothing.
        """

    def step(self, x: Tensor, state: S) -> Tensor:
        """The next position, (B, D) -> (B, D)."""
        return self.prefill(x.unsqueeze(1), state).squeeze(1)


class MixerConfig(Config, ABC):
    """Base of the mixers' configs. ``kind`` is the mixer's name in the table of ``layers/registry.py``."""

    kind: str

    @property
    def causal(self) -> bool:
        """Whether no position sees a later one."""
        return True

    @abstractmethod
    def build(self, dim: int, max_len: int) -> Mixer:
        """A mixer of width ``dim`` for a context of ``max_len`` positions, and the start vector that models put before it.

        Raises ``ValueError`` when the sizes do not fit.
        """

    def build_segmented(self, dim: int, segment: int, lookback: int) -> Mixer:
        """One whose positions see only their own segment of ``segment`` positions and the last ``lookback`` of the segment before.

        Any mixer can be reset at each segment; a lookback is for those that say how. Raises ``ValueError`` where this one does not.
        """
        if lookback:
            raise ValueError(f"a mixer of kind {self.kind!r} cannot look back across a patch boundary: set cross_patch=0")
        return Segmented(self.build(dim, segment), segment)


@dataclass
class SegmentedState(State):
    """The mixer's state inside each row's open segment, and the one that every segment starts from."""

    inner: State
    fresh: State
    lengths: list[int]


def check_width(x: Tensor, dim: int) -> None:
    """Raises ``ValueError`` for another shape of x than (B, T, ``dim``)."""
    if x.ndim != 3 or x.shape[2] != dim:
        raise ValueError(f"expected (B, T, {dim}), the width of the mixer, got {tuple(x.shape)}: give it inputs of that width")


def check_mask(x: Tensor, mask: Tensor | None) -> None:
    """A mask of x (B, T, D), or none. Raises ``ValueError`` for another shape or type than (B, T) of bool."""
    if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
        shape = f"{tuple(mask.shape)} of {mask.dtype}"
        raise ValueError(f"a mask has one entry per position, {tuple(x.shape[:2])}, True at real positions, got {shape}: give (B, T)")


class Segmented(Mixer[SegmentedState]):
    """Any mixer, reset at the start of each segment of P positions. Cost in T: T / P times that of P positions."""

    def __init__(self, mixer: Mixer, segment: int) -> None:
        super().__init__()
        self.mixer, self.segment = mixer, segment

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_mask(x, mask)
        batch, length, dim = x.shape
        fill = -length % self.segment
        parts = F.pad(x, (0, 0, 0, fill)).reshape(-1, self.segment, dim)  # (B segments, P, D)
        masks = None if mask is None else F.pad(mask, (0, fill)).reshape(-1, self.segment)
        return self.mixer(parts, masks).reshape(batch, length + fill, dim)[:, :length]

    def init_state(self, batch: int, max_len: int) -> SegmentedState:
        inner = self.mixer.init_state(batch, self.segment)
        return SegmentedState(inner, inner.clone(), [0] * batch)

    def prefill(self, x: Tensor, state: SegmentedState, lengths: Sequence[int] | None = None) -> Tensor:
        remaining = [x.shape[1]] * x.shape[0] if lengths is None else list(lengths)
        done, y = [0] * len(remaining), torch.zeros_like(x)
        while max(remaining, default=0):
            begins = [length > 0 and length % self.segment == 0 and rest > 0 for length, rest in zip(state.lengths, remaining, strict=True)]
            if any(begins):
                state.inner.reset(begins, state.fresh.clone())
            whole = remaining[0] // self.segment * self.segment
            if whole and len(set(remaining)) == 1 and len(set(done)) == 1 and not any(length % self.segment for length in state.lengths):
                counts = [whole] * len(remaining)  # whole segments of all rows at once; the state is still that of a segment's start
                put_rows(y, done, self.forward(x[:, done[0] : done[0] + whole]))
            else:
                counts = [min(self.segment - length % self.segment, rest) for length, rest in zip(state.lengths, remaining, strict=True)]
                part = self.mixer.prefill(take_rows(x, done, max(counts)), state.inner, counts)
                put_rows(y, done, part)  # past a row's count this is overwritten by its next segment
            state.lengths = [length + count for length, count in zip(state.lengths, counts, strict=True)]
            done = [before + count for before, count in zip(done, counts, strict=True)]
            remaining = [rest - count for rest, count in zip(remaining, counts, strict=True)]
        return y
