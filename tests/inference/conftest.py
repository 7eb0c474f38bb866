"""Models for the tests of inference: a small recurrence of the model contract, and small real models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from subquad.models import build_model
from subquad.models.base import CausalModel, ModelConfig, ModelState, Output


class RecurrenceConfig(ModelConfig):
    """The config of a ``Recurrence``."""

    kind: Literal["recurrence"] = "recurrence"

    @property
    def width(self) -> int:
        return 8

    def build(self) -> Recurrence:
        return Recurrence(self.max_len, vocab=self.vocab)


@dataclass
class RecurrenceState(ModelState):
    """And the hidden row."""

    hidden: Tensor


class Recurrence(CausalModel[RecurrenceState]):
    """A causal model whose predictions depend on every byte read, on the position and on the place in the patch.

    With a ``script`` it writes that text, whatever it reads. ``calls`` are the methods that were called.
    """

    def __init__(
        self, max_len: int = 16, patch_size: int = 4, vocab: int = 256, sharpness: float = 4.0, script: bytes | None = None
    ) -> None:
        super().__init__()
        self.config = RecurrenceConfig(max_len=max_len, vocab=vocab)
        self.patch_size = self.patch_bytes = patch_size
        generator = torch.Generator().manual_seed(1)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.start, self.mix = weight(8), weight(8, 8)
        self.embedding, self.place, self.output = weight(vocab, 8), weight(max_len + 1, 8), weight(8, vocab)
        self.sharpness = sharpness
        self.script = None if script is None else torch.tensor([*script, *bytes(max_len + 1 - len(script))])
        self.calls: list[str] = []

    def id_tables(self) -> list[Tensor]:
        return [self.embedding]

    def forward(self, ids: Tensor, span: tuple[int, int] | None = None, *, output: Output = "logits") -> Tensor:
        """Ids (B, T) to logits (B, T, V)."""
        self.calls.append("forward")
        self._check_length(ids.shape[1])
        hidden, out = self.start.expand(len(ids), -1), []
        for t in range(ids.shape[1]):
            out.append(self._logits(hidden, torch.full((len(ids),), t, device=ids.device)))
            hidden = self._read(hidden, ids[:, t])
        return torch.stack(out, 1) if out else self.start.new_zeros(len(ids), 0, self.config.vocab)

    def init_state(self, batch: int, max_len: int | None = None) -> RecurrenceState:
        """A state before the first id."""
        self.calls.append("init_state")
        hidden = self.start.expand(batch, -1)
        first = self._logits(hidden, torch.zeros(batch, dtype=torch.int64, device=hidden.device))
        return RecurrenceState(first, [0] * batch, self._room(max_len), hidden)

    def prefill(self, ids: Tensor, state: RecurrenceState, lengths: Sequence[int] | None = None) -> Tensor:
        """Feeds each row its own number of ids."""
        self.calls.append("prefill")
        return super().prefill(ids, state, lengths)

    def step(self, ids: Tensor, state: RecurrenceState) -> Tensor:
        """Feeds one id to each row."""
        self.calls.append("step")
        return super().prefill(ids[:, None], state)[:, 0]

    def _advance(self, ids: Tensor, counts: Sequence[int], state: RecurrenceState) -> Tensor:
        assert not self.training
        read, out = torch.tensor(state.lengths), []
        for t in range(ids.shape[1]):
            active = t < torch.tensor(counts)
            read = read + active
            state.hidden = torch.where(active[:, None], self._read(state.hidden, ids[:, t]), state.hidden)
            out.append(self._logits(state.hidden, read))
        return torch.stack(out, 1)

    def _read(self, hidden: Tensor, ids: Tensor) -> Tensor:
        return torch.tanh(hidden @ self.mix + self.embedding[ids])

    def _logits(self, hidden: Tensor, positions: Tensor) -> Tensor:
        if self.script is not None:
            return 50.0 * nn.functional.one_hot(self.script[positions], 256).double()
        place = self.place[positions] + self.place[positions % self.patch_size]
        return torch.tanh(hidden + place) @ self.output * self.sharpness / 8**0.5


@pytest.fixture(scope="session")
def recurrences() -> type[Recurrence]:
    """The recurrence's class, for tests that need sizes of their own."""
    return Recurrence


@pytest.fixture
def recurrence() -> Recurrence:
    """The small recurrence in training mode, so that evaluation mode has to be set and given back."""
    return Recurrence().train()


def real_model(name: str) -> nn.Module:
    """A small model of the table: float64, context 16, weights large enough that every byte matters, dropout to be switched off."""
    wide, narrow = ({"dim": dim, "depth": 2, "dropout": 0.2, "mixer": {"kind": "attention", "heads": 2}} for dim in (24, 12))
    megabyte = {"kind": "megabyte", "max_len": 16, "stages": [wide, narrow], "patch_size": 4, "init_std": 0.5}
    configs: dict[str, dict[str, object]] = {
        "transformer": {"kind": "language_model", "max_len": 16, "stack": narrow, "positions": "learned", "init_std": 0.5},
        "megabyte": megabyte | {"conv_kernels": [3], "cross_patch": 3},
        "megabyte-3-stages": megabyte | {"stages": [wide, wide, narrow], "patch_size": [2, 4]},
    }
    torch.manual_seed(0)
    return build_model(configs[name]).double().train()


@pytest.fixture(params=["recurrence", "transformer", "megabyte", "megabyte-3-stages"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Each small model in float64, context 16, in training mode."""
    return Recurrence().train() if request.param == "recurrence" else real_model(request.param)
