"""A mixer as somebody outside the package would write it: the sum of all inputs so far, divided by ``groups``.

``pytest -p tests.layers.running_sum`` puts it into the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from subquad.layers.base import Mixer, MixerConfig, check_mask, check_width
from subquad.layers.registry import MIXERS
from subquad.ops.ragged import length_mask
from subquad.state import State


class RunningSumConfig(MixerConfig):
    kind: Literal["running_sum"] = "running_sum"
    groups: int = Field(gt=2)  # required, and tests know neither its name nor its limits

    def build(self, dim: int, max_len: int) -> RunningSum:
        return RunningSum(self, dim)


@dataclass
class Total(State):
    total: Tensor  # (B, D)


class RunningSum(Mixer):
    def __init__(self, config: RunningSumConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_width(x, self.dim)
        check_mask(x, mask)
        real = 1 if mask is None else mask.unsqueeze(-1)  # (B, T, 1)
        y: Tensor = self.out((x * real).cumsum(1) / self.config.groups)
        return y * real

    def init_state(self, batch: int, max_len: int) -> Total:
        return Total(self.out.weight.new_zeros(batch, self.dim))

    def prefill(self, x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
        assert isinstance(state, Total)
        check_width(x, self.dim)
        real = length_mask([x.shape[1]] * x.shape[0] if lengths is None else lengths, x.shape[1], x.device).unsqueeze(-1)  # (B, n, 1)
        sums = state.total.unsqueeze(1) + (x * real).cumsum(1)  # (B, n, D)
        state.total = state.total + (x * real).sum(1)
        y: Tensor = self.out(sums / self.config.groups)
        return y


MIXERS["running_sum"] = RunningSumConfig
