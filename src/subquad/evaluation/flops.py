"""Counted FLOPs per byte, on the meta device: nothing is allocated and any length can be counted.

Matrix products come from PyTorch's counter (a multiply-add is 2 FLOPs); solving for a vector with a triangular matrix counts half of the
product with a full one. Causal attention is computed over whole rectangles there; of
them ``causal="half"`` counts half, which is what is visible of the whole past (MEGABYTE's Table 7; of a patch and the one before it is
three quarters; where only the last n of T positions ask, 1 - n / 2T of the rectangle), and ``"full"`` all (Hyena's Table 4.4). A Fourier
transform of n real numbers counts 2.5 n log2 n, of n complex ones twice that; PyTorch's counter says nothing of them. Embedding
look-ups, norms, gates, short convolutions and activations count nothing, as in the papers.

With the backward pass it is a training step that is counted: of a model
that learns a part of each window (PerceiverAR), the mean over the parts that it draws. Linear attention needs all that it
multiplies, so none of it is halved (``Mixer.attention_flops``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from subquad.layers.base import Mixer
from subquad.layers.long_filter import LongFilter
from subquad.layers.monarch_linear import MonarchLinear
from subquad.layers.stack import Block, Stack
from subquad.models import build_model, parse_model
from subquad.models.base import BaseModelConfig, CausalModel, Model, ModelConfig
from subquad.models.encoder import Encoder

Causal = Literal["half", "full"]
_DRAWS = {nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.zeros_, nn.init.constant_}


@dataclass(frozen=True)
class Flops:
    """FLOPs per byte: linear maps and convolutions, attention's scores and values, the transforms of long convolutions, the networks that
    make long filters (once a pass, here shared by one window alone), and the output logits.

    ``embedding`` is what looking ids up would cost as products with the tables, which Chinchilla's and Hyena's counts include; the total
    does not.
    """

    linear: float
    attention: float
    transforms: float
    filters: float
    logits: float
    embedding: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.attention + self.transforms + self.filters + self.logits


class _Counts(NamedTuple):
    """FLOPs of a pass: all, those of attention, the visible part of these, of transforms, of filters."""

    everything: float
    attention: float
    visible: float
    transforms: float
    filters: float

    def plus(self, other: _Counts, times: float = 1) -> _Counts:
        return _Counts(*(one + times * more for one, more in zip(self, other, strict=True)))


def count_flops(
    config: BaseModelConfig | Mapping[str, Any] | str, length: int | None = None, causal: Causal = "half", backward: bool = False
) -> Flops:
    """FLOPs per byte of a pass over ``length`` bytes (default: the context), or of a training step on them with ``backward``.

    A token model's are per token, an encoder's those of its head. Raises ``ValueError`` for a length outside 1 to max_len, and for a
    classifier.
    """
    model = config if isinstance(config, BaseModelConfig) else parse_model(config)
    if not isinstance(model, ModelConfig):
        raise ValueError(f"FLOPs per byte are counted of models that read ids themselves, got a {model.kind}: count its backbone")
    config = model
    length = config.max_len if length is None else length
    if length < 1:
        raise ValueError(f"FLOPs per byte need at least 1 byte, got a length of {length}")
    return _count(config.model_dump_json(), length, causal, backward)


@lru_cache(maxsize=256)  # a comparison asks for the same model in every cell, and counting takes a second
def _count(config: str, length: int, causal: Causal, backward: bool) -> Flops:
    model = skeleton(json.loads(config))
    spans = model.training_spans(length) if backward and isinstance(model, CausalModel) else [(0, length)]
    positions = sum(end - first for first, end in spans)
    forward, attention, visible, transforms, filters = _summed(_counts(model, length, span, backward=False) for span in spans)
    counted = sum(_counts(model, length, span, backward=True).everything for span in spans) if backward else forward
    # Backward work is not credited to modules reliably; attention and logits keep their share of the forward pass, since every matrix
    # product has two of its own size in the backward pass.
    scale = counted / max(forward, 1)
    logits = 2.0 * model.vocab * _output_width(model) * positions
    linear = counted - scale * (attention + transforms + filters + logits)
    embedding = 2.0 * sum(table.weight.numel() for table in _id_tables(model)) * positions
    parts = (visible if causal == "half" else attention, transforms, filters, logits, embedding)
    return Flops(linear / positions, *(scale * part / positions for part in parts))


def skeleton(config: BaseModelConfig | Mapping[str, Any] | str) -> Model:
    """A model of shapes without numbers, on the meta device. Drawing numbers that nobody keeps would take most of the time."""
    with torch.device("meta"), _Undrawn():
        return build_model(config)


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would be drawn into them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (args or tuple(kwargs.values()))[0] if func in _DRAWS else func(*args, **(kwargs or {}))


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes; a tied table counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def embedding_parameters(model: nn.Module) -> int:
    """Those of tables, positions and pad or start vectors: all that is no linear map, convolution or norm."""
    inner = (nn.Linear, MonarchLinear, nn.Conv1d, nn.LayerNorm)
    return count_parameters(model) - sum(count_parameters(module) for module in model.modules() if isinstance(module, inner))


def _summed(counts: Iterable[_Counts]) -> _Counts:
    total = _Counts(0, 0, 0, 0, 0)
    for one in counts:
        total = total.plus(one)
    return total


def _counts(model: Model, length: int, span: tuple[int, int], backward: bool) -> _Counts:
    """Measured at one and two blocks a stack and continued to all where blocks are alike; a hybrid's are all measured."""
    stacks = [module for module in model.modules() if isinstance(module, Stack) and len(module.blocks) and module.alike]
    blocks = [list(stack.blocks) for stack in stacks]

    def measured(deep: Stack | None) -> _Counts:
        for stack, own in zip(stacks, blocks, strict=True):
            stack.blocks = cast("Sequence[Block]", nn.ModuleList(own[:1] * (2 if stack is deep else 1)))
        return _measured(model, length, span, backward)

    total = base = measured(None)
    for stack, own in zip(stacks, blocks, strict=True):
        if len(own) > 1:
            total = total.plus(measured(stack).plus(base, -1), len(own) - 1)
    for stack, own in zip(stacks, blocks, strict=True):
        stack.blocks = cast("Sequence[Block]", nn.ModuleList(own))
    return total


def _transform(points: tuple[int, ...], dims: Sequence[int], share: float) -> float:
    """FLOPs of transforms over ``dims`` of a tensor of that shape; ``share`` is a half where one side is real numbers."""
    length = math.prod(points[dim] for dim in dims)
    return share * 5 * math.prod(points) * math.log2(max(length, 2))


_TRANSFORMS = {
    torch.ops.aten._fft_r2c: lambda shape, dims, *rest, out_shape: _transform(shape, dims, 0.5),
    torch.ops.aten._fft_c2r: lambda shape, dims, *rest, out_shape: _transform(out_shape, dims, 0.5),
    torch.ops.aten._fft_c2c: lambda shape, dims, *rest, out_shape: _transform(shape, dims, 1.0),
}


_SOLVES = {
    torch.ops.aten.linalg_solve_triangular: lambda matrix, given, *, upper, left=True, unitriangular=False, out_shape: (
        math.prod(out_shape) * matrix[-1]
    )
}


def _measured(model: Model, length: int, span: tuple[int, int], backward: bool) -> _Counts:
    counter = FlopCounterMode(display=False, custom_mapping=_TRANSFORMS | _SOLVES)
    noting = _noting_attention(model, counter), _noting_filters(model, counter)
    model.requires_grad_(backward)  # a slice of a parameter asks for gradients even where there are none, which the counter cannot follow
    with counter, torch.device("meta"), torch.set_grad_enabled(backward), noting[0] as noted, noting[1] as filters:
        ids = torch.empty(1, length, dtype=torch.long)
        y = model(ids, span) if isinstance(model, CausalModel) and span != (0, length) else model(ids)
        if backward:
            y.sum().backward()
    counts: Mapping[Any, float] = counter.get_flop_counts()["Global"]
    transforms = sum(counts.get(operator, 0) for operator in _TRANSFORMS)
    attention, visible = sum(count for count, _ in noted), sum(count * share for count, share in noted)
    return _Counts(sum(counts.values()), attention, visible, transforms, sum(filters))


@contextmanager
def _noting_attention(model: Model, counter: FlopCounterMode) -> Iterator[list[tuple[int, float]]]:
    """For each call of an attention in a forward pass: FLOPs of its scores and values, and the share of them that is visible."""
    noted: list[tuple[int, float]] = []
    before: list[int] = []

    def products() -> int:
        return int(counter.get_flop_counts().get("Global", {}).get(torch.ops.aten.bmm, 0))

    def begins(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        before.append(products())

    def ends(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        unseen = output.shape[1] / (2 * inputs[0].shape[1]) if module.attention_flops == "half" else 0.0
        noted.append((products() - before.pop(), 1 - unseen))

    found = [module for module in model.modules() if isinstance(module, Mixer) and module.attention_flops]
    hooks = [hook for module in found for hook in (module.register_forward_pre_hook(begins), module.register_forward_hook(ends))]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _noting_filters(model: Model, counter: FlopCounterMode) -> Iterator[list[float]]:
    """For each call of a long filter in a forward pass its FLOPs."""
    noted: list[float] = []
    before: list[float] = []

    def all_of_them() -> float:
        return float(sum(counter.get_flop_counts().get("Global", {}).values()))

    def begins(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        before.append(all_of_them())

    def ends(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        noted.append(all_of_them() - before.pop())

    found = [module for module in model.modules() if isinstance(module, LongFilter)]
    hooks = [hook for module in found for hook in (module.register_forward_pre_hook(begins), module.register_forward_hook(ends))]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _output_width(model: Model) -> int:
    """Width of the vectors that the logits are read from, the last table or head of the model; 0 for an encoder that gives none."""
    if isinstance(model, Encoder) and model.config.head != "mlm":
        return 0
    return _id_tables(model)[-1].embedding_dim


def _id_tables(model: Model) -> list[nn.Embedding]:
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return [table for table in tables if table.num_embeddings == model.vocab]
