"""The cost of one more byte while decoding: the size of the state, and how many layers run one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.layers.stack import Block
from subquad.models.base import CausalModel
from subquad.state import State

Prefill = Callable[[Tensor, State, Sequence[int] | None], Tensor]


@dataclass(frozen=True)
class Decoding:
    """``state_bytes`` of one row with room for the whole context, and calls of a block a byte, on average over the bytes decoded."""

    state_bytes: int
    serial_steps: float


def measure_decoding(model: CausalModel, length: int = 64) -> Decoding:
    """Decodes whole patches, of ``length`` bytes or a little more (at most the context), and counts: each costs what the first costs.

    The model is left as it was.
    """
    length = min(math.ceil(length / model.patch_bytes) * model.patch_bytes, model.config.max_len)
    with torch.inference_mode():
        state = model.init_state(1)
        calls = layer_calls(model, length)
    return Decoding(state.nbytes, calls / length)


def layer_calls(model: CausalModel, length: int) -> int:
    """Calls of a block while ``length`` bytes are generated one by one."""
    calls = 0
    blocks = [module for module in model.modules() if isinstance(module, Block)]

    def counted(prefill: Prefill) -> Prefill:
        def call(x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
            nonlocal calls
            calls += 1
            return prefill(x, state, lengths)

        return call

    for block in blocks:  # hooks of PyTorch see a module's forward alone
        block.prefill = counted(block.prefill)  # type: ignore[assignment, method-assign]
    try:
        with torch.inference_mode():
            state = model.init_state(1, length)
            for _ in range(length - 1):
                model.step(state.logits.argmax(-1), state)
    finally:
        for block in blocks:
            del block.prefill
    return calls
