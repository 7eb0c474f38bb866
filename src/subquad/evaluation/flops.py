"""Counted FLOPs per byte, on the meta device: nothing is allocated and any length can be counted.

Matrix products come from PyTorch's counter (a multiply-add is 2 FLOPs). Causal attention is computed over whole rectangles there; of
them ``causal="half"`` counts half, which is what is visible of the whole past (MEGABYTE's Table 7; of a patch and the one before it is
three quarters; where only the last n of T positions ask, 1 - n / 2T of the rectangle), and ``"full"`` all (Hyena's Table 4.4). Embedding
look-ups, norms and activations count nothing, as in the papers. With the backward pass it is a training step that is counted: of a model
that learns a part of each window (PerceiverAR), the mean over the parts that it draws. Linear attention needs all that it
multiplies, so none of it is halved (``Mixer.pairs``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from subquad.layers.mixer import Mixer
from subquad.layers.stack import Block, Stack
from subquad.models import build_model, parse_model
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
    """FLOPs per byte of a pass over ``length`` bytes (default: the context), or of a training step on them with ``backward``.

    Raises ``ValueError`` for a length outside 1 to max_len, and for a model that is not causal.
    """
    model = config if isinstance(config, ModelConfig) else parse_model(config)
    if not isinstance(model, ModelConfig):
        raise ValueError(f"FLOPs per byte are counted of causal models, got a {model.kind}: count its backbone")
    config = model
    length = config.max_len if length is None else length
    if length < 1:
        raise ValueError(f"FLOPs per byte need at least 1 byte, got a length of {length}")
    return _count(config.model_dump_json(), length, causal, backward)


@lru_cache(maxsize=256)  # a comparison asks for the same model in every cell, and counting takes a second
def _count(config: str, length: int, causal: Causal, backward: bool) -> Flops:
    with torch.device("meta"):
        model = build_model(json.loads(config))
    assert isinstance(model, CausalModel)
    spans = model.training_spans(length) if backward else [(0, length)]
    positions = sum(end - first for first, end in spans)
    passes = [_counts(model, length, span, backward=False) for span in spans]
    forward, attention, visible = (sum(parts) for parts in zip(*passes, strict=True))
    counted = float(sum(_counts(model, length, span, backward=True)[0] for span in spans)) if backward else forward
    # Backward work is not credited to modules reliably; attention and logits keep their share of the forward pass, since every matrix
    # product has two of its own size in the backward pass.
    scale = counted / max(forward, 1)
    attention, visible = attention * scale, visible * scale
    logits = 2.0 * model.config.vocab * _output_width(model) * positions * scale
    linear = counted - attention - logits
    return Flops(linear / positions, (visible if causal == "half" else attention) / positions, logits / positions)


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes; a tied table counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def embedding_parameters(model: nn.Module) -> int:
    """Those of tables, positions and pad or start vectors: all that is no linear map, convolution or norm."""
    inner = (nn.Linear, nn.Conv1d, nn.LayerNorm)
    return count_parameters(model) - sum(count_parameters(module) for module in model.modules() if isinstance(module, inner))


def _counts(model: CausalModel, length: int, span: tuple[int, int], backward: bool) -> tuple[float, float, float]:
    """FLOPs of the whole model, of its attention and of the visible part of that, measured at one and two blocks a stack and continued
    to all: blocks are alike."""
    stacks = [module for module in model.modules() if isinstance(module, Stack) and len(module.blocks)]
    blocks = [list(stack.blocks) for stack in stacks]

    def measured(deep: Stack | None) -> tuple[float, float, float]:
        for stack, own in zip(stacks, blocks, strict=True):
            stack.blocks = cast("Sequence[Block]", nn.ModuleList(own[:1] * (2 if stack is deep else 1)))
        return _measured(model, length, span, backward)

    base = measured(None)
    everything, attention, visible = base
    for stack, own in zip(stacks, blocks, strict=True):
        if len(own) > 1:
            deeper = measured(stack)
            everything += (len(own) - 1) * (deeper[0] - base[0])
            attention += (len(own) - 1) * (deeper[1] - base[1])
            visible += (len(own) - 1) * (deeper[2] - base[2])
    for stack, own in zip(stacks, blocks, strict=True):
        stack.blocks = cast("Sequence[Block]", nn.ModuleList(own))
    return everything, attention, visible


def _measured(model: CausalModel, length: int, span: tuple[int, int], backward: bool) -> tuple[float, float, float]:
    counter = FlopCounterMode(display=False)
    with counter, torch.device("meta"), torch.set_grad_enabled(backward), _noting_attention(model, counter) as noted:
        ids = torch.empty(1, length, dtype=torch.long)
        logits = model(ids) if span == (0, length) else model.span_logits(ids, *span)
        if backward:
            logits.sum().backward()
    counts: Mapping[str, Mapping[Any, int]] = counter.get_flop_counts()
    return sum(counts["Global"].values()), sum(count for count, _ in noted), sum(count * share for count, share in noted)


@contextmanager
def _noting_attention(model: CausalModel, counter: FlopCounterMode) -> Iterator[list[tuple[int, float]]]:
    """For each call of an attention in a forward pass: FLOPs of its scores and values, and the share of them that is visible."""
    noted: list[tuple[int, float]] = []
    before: list[int] = []

    def products() -> int:
        return int(counter.get_flop_counts().get("Global", {}).get(torch.ops.aten.bmm, 0))

    def begins(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        before.append(products())

    def ends(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        unseen = output.shape[1] / (2 * inputs[0].shape[1]) if module.pairs == "half" else 0.0
        noted.append((products() - before.pop(), 1 - unseen))

    found = [module for module in model.modules() if isinstance(module, Mixer) and module.pairs]
    hooks = [hook for module in found for hook in (module.register_forward_pre_hook(begins), module.register_forward_hook(ends))]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _output_width(model: nn.Module) -> int:
    """Width of the vectors that the logits are read from: the last table or head of the model."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    assert isinstance(model, CausalModel)
    wide = [table for table in tables if table.num_embeddings == model.config.vocab]
    return wide[-1].embedding_dim
