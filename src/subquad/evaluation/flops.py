"""Counted FLOPs per byte, on the meta device: nothing is allocated and any length can be counted.

Matrix products come from PyTorch's counter (a multiply-add is 2 FLOPs). Causal attention is computed over whole rectangles there; of
them ``causal="half"`` counts half, which is what is visible of the whole past (MEGABYTE's Table 7; of a patch and the one before it is
three quarters), and ``"full"`` all (Hyena's Table 4.4). Embedding look-ups,
norms and activations count nothing, as in the papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from subquad.layers.attention import Attention
from subquad.layers.stack import Block, Stack
from subquad.models import build_model
from subquad.models.model import CausalModel, ModelConfig

Causal = Literal["half", "full"]


@dataclass(frozen=True)
class Flops:
    """FLOPs per byte: linear maps and convolutions, attention's scores and values, and the output logits."""

    linear: float
    attention: float
    logits: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.attention + self.logits


def count_flops(
    config: ModelConfig | Mapping[str, Any] | str, length: int | None = None, causal: Causal = "half", backward: bool = False
) -> Flops:
    """FLOPs per byte of a pass over ``length`` bytes (default: the context), with its backward pass if asked.

    Raises ``ValueError`` for a length outside 1 to max_len.
    """
    with torch.device("meta"):
        model = build_model(config)
    assert isinstance(model, CausalModel)
    length = model.config.max_len if length is None else length
    if length < 1:
        raise ValueError(f"FLOPs per byte need at least 1 byte, got a length of {length}")
    forward, attention = _counts(model, length, backward=False)
    counted = _counts(model, length, backward=True)[0] if backward else forward
    # Backward work is not credited to modules reliably; attention and logits keep their share of the forward pass, since every matrix
    # product has two of its own size in the backward pass.
    scale = counted / max(forward, 1)
    attention *= scale
    logits = 2.0 * model.config.vocab * _output_width(model) * length * scale
    linear = counted - attention - logits
    visible = attention / 2 if causal == "half" else attention
    return Flops(linear / length, visible / length, logits / length)


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes; a tied table counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def embedding_parameters(model: nn.Module) -> int:
    """Those of tables, positions and pad or start vectors: all that is no linear map, convolution or norm."""
    inner = (nn.Linear, nn.Conv1d, nn.LayerNorm)
    return count_parameters(model) - sum(count_parameters(module) for module in model.modules() if isinstance(module, inner))


def _counts(model: CausalModel, length: int, backward: bool) -> tuple[float, float]:
    """FLOPs of the whole model and of its attention, measured at one and two blocks a stack and continued to all: blocks are alike."""
    stacks = [module for module in model.modules() if isinstance(module, Stack) and len(module.blocks)]
    blocks = [list(stack.blocks) for stack in stacks]

    def measured(deep: Stack | None) -> tuple[float, float]:
        for stack, own in zip(stacks, blocks, strict=True):
            stack.blocks = cast("Sequence[Block]", nn.ModuleList(own[:1] * (2 if stack is deep else 1)))
        return _measured(model, length, backward)

    base = measured(None)
    everything, attention = base
    for stack, own in zip(stacks, blocks, strict=True):
        if len(own) > 1:
            deeper = measured(stack)
            everything += (len(own) - 1) * (deeper[0] - base[0])
            attention += (len(own) - 1) * (deeper[1] - base[1])
    for stack, own in zip(stacks, blocks, strict=True):
        stack.blocks = cast("Sequence[Block]", nn.ModuleList(own))
    return everything, attention


def _measured(model: CausalModel, length: int, backward: bool) -> tuple[float, float]:
    counter = FlopCounterMode(display=False)
    with counter, torch.device("meta"), torch.set_grad_enabled(backward):
        logits = model(torch.empty(1, length, dtype=torch.long))
        if backward:
            logits.sum().backward()
    counts: Mapping[str, Mapping[Any, int]] = counter.get_flop_counts()
    names = [f"{type(model).__name__}.{name}" for name, module in model.named_modules() if isinstance(module, Attention)]
    return sum(counts["Global"].values()), sum(counts.get(name, {}).get(torch.ops.aten.bmm, 0) for name in names)


def _output_width(model: nn.Module) -> int:
    """Width of the vectors that the logits are read from: the last table or head of the model."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    assert isinstance(model, CausalModel)
    wide = [table for table in tables if table.num_embeddings == model.config.vocab]
    return wide[-1].embedding_dim
