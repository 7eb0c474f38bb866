"""The contract of a causal mixer: (B, T, D) -> (B, T, D) along the sequence, in parallel or position by position.

``prefill`` and ``step`` continue from a state; whatever the split, the outputs equal ``forward`` on the whole sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from subquad.config import Config
from subquad.layers.state import State


class Mixer(nn.Module, ABC):
    """Base of the mixers. D is the model width, T the number of positions."""

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D). ``mask`` (B, T) is True at real positions; the others neither give nor get anything."""

    @abstractmethod
    def init_state(self, batch: int, max_len: int) -> State:
        """The state before the first position, with room for ``max_len`` positions."""

    @abstractmethod
    def prefill(self, x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
        """The next n positions at once, (B, n, D) -> (B, n, D).

        Row b advances by ``lengths[b]`` (0 to n; default n); its outputs past that are meaningless and change nothing.
        """

    def step(self, x: Tensor, state: State) -> Tensor:
        """The next position, (B, D) -> (B, D)."""
        return self.prefill(x.unsqueeze(1), state).squeeze(1)


class MixerConfig(Config, ABC):
    """Base of the mixers' configs. ``kind`` is the mixer's name in the table of ``layers/mixers.py``."""

    kind: str

    @abstractmethod
    def build(self, dim: int, segment: int | None = None, lookback: int = 0) -> Mixer:
        """A mixer of width ``dim``. With ``segment``, positions see only their own segment of that many positions and the last
        ``lookback`` positions of the segment before. Raises ``ValueError`` when the width does not fit."""
