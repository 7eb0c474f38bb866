"""Counted FLOPs per byte, on the meta device: nothing is allocated and any length can be counted.

Matrix products come from PyTorch's counter (a multiply-add is 2 FLOPs), by module; solving for a vector with a triangular matrix counts
half of the product with a full one. Causal attention is computed over whole rectangles there; ``causal="half"`` counts half of them, which
is what is visible of the whole past (MEGABYTE's Table 7; of a patch and the one before it, three quarters; where only the last n of T
positions have queries, 1 - n / 2T), and ``"full"`` all (Hyena's Table 4.4). Linear attention needs all that it multiplies, so none of it
is halved (``Mixer.attention_flops``). A Fourier transform of n real numbers counts 2.5 n log2 n, of n complex ones twice that; PyTorch's
counter leaves them out. Embedding look-ups, norms, gates, short convolutions and activations count nothing, as in the papers.

With the backward pass it is a training step that is counted: of a model that learns a part of each window (PerceiverAR), the mean over the
parts that it draws.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from subquad.config import Config, with_changes
from subquad.layers.base import Mixer
from subquad.layers.long_filter import LongFilter
from subquad.layers.stack import Stack, StackConfig
from subquad.models import parse_model
from subquad.models.base import BaseModelConfig, Model
from subquad.models.meta import build_on_meta

Causal = Literal["half", "full"]


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
    """FLOPs of a forward pass: all, those of attention, the visible part of these, of transforms, of filters."""

    everything: float
    attention: float
    visible: float
    transforms: float
    filters: float

    def plus(self, other: _Counts, times: float = 1) -> _Counts:
        return _Counts(*(count + times * more for count, more in zip(self, other, strict=True)))


def count_flops(
    config: BaseModelConfig | Mapping[str, Any] | str, length: int | None = None, causal: Causal = "half", backward: bool = False
) -> Flops:
    """FLOPs per byte of a pass over ``length`` bytes (default: the context), or of a training step on them with ``backward``.

    A token model's are per token, an encoder's those of its head. Raises ``ValueError`` for a length outside 1 to max_len, and for a
    classifier.
    """
    config = parse_model(config)
    if config.HAS_BACKBONE:
        raise ValueError(f"FLOPs per byte are counted for models that read ids themselves, got a {config.kind}: count its backbone")
    length = config.base_model.max_len if length is None else length
    if length < 1:
        raise ValueError(f"FLOPs per byte need at least 1 byte, got a length of {length}")
    return _count(config.model_dump_json(), length, causal, backward)


@lru_cache(maxsize=256)  # a comparison asks for the same model in every cell
def _count(config: str, length: int, causal: Causal, backward: bool) -> Flops:
    model = _skeleton(config)
    spans = model.training_spans(length) if backward else [(0, length)]
    positions = sum(end - first for first, end in spans)
    counts = _Counts(0, 0, 0, 0, 0)
    for span in spans:
        counts = counts.plus(_forward_counts(model, length, span))
    everything = sum(_training_flops(model, length, span) for span in spans) if backward else counts.everything
    # Backward work is not credited to modules reliably; attention and logits keep their share of the forward pass, since every matrix
    # product has two of its own size in the backward pass.
    scale = everything / max(counts.everything, 1)
    logits = 2.0 * model.vocab * model.config.base_model.logits_width * positions
    linear = everything - scale * (counts.attention + counts.transforms + counts.filters + logits)
    embedding = 2.0 * sum(table.numel() for table in model.id_tables()) * positions
    parts = (counts.visible if causal == "half" else counts.attention, counts.transforms, counts.filters, logits, embedding)
    return Flops(linear / positions, *(scale * part / positions for part in parts))


def skeleton(config: BaseModelConfig | Mapping[str, Any] | str) -> Model:
    """A model on the meta device, with shapes only. Recent ones are cached and shared: do not change it."""
    return _skeleton(parse_model(config).model_dump_json())


@lru_cache(maxsize=8)
def _skeleton(config: str) -> Model:
    return build_on_meta(json.loads(config))


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes; a tied table counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


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


def _forward_counts(model: Model, length: int, span: tuple[int, int]) -> _Counts:
    """Of a stack whose blocks are alike two are run, and the second stands for the others; a hybrid's are all run."""
    depths = _depths(model)
    run = _run(_two_blocks_deep(model.config), length, span, tuple(min(depth, 2) for depth in depths.values()), backward=False)

    def counts(root: str) -> _Counts:
        """Those of the modules whose names begin so."""
        of_root = run.flops[root.removesuffix(".")]
        attention = {name: run.flops[name].get(torch.ops.aten.bmm, 0) for name in run.shares if name.startswith(root)}
        return _Counts(
            everything=sum(of_root.values()),
            attention=sum(attention.values()),
            visible=sum(count * run.shares[name] for name, count in attention.items()),
            transforms=sum(of_root.get(transform, 0) for transform in _TRANSFORMS),
            filters=sum(sum(run.flops[name].values()) for name in run.filters if name.startswith(root)),
        )

    total = counts("")
    for name, depth in depths.items():
        if depth > 2:
            total = total.plus(counts(f"{name}.blocks.1."), depth - 2)
    return total


def _training_flops(model: Model, length: int, span: tuple[int, int]) -> float:
    """Forward and backward, run at one and two blocks a stack and continued to all where blocks are alike."""
    config, depths = _two_blocks_deep(model.config), list(_depths(model).values())
    ones = [min(depth, 1) for depth in depths]

    def run(blocks: Sequence[int]) -> float:
        return sum(_run(config, length, span, tuple(blocks), backward=True).flops[""].values())

    base = run(ones)
    deeper = [run([*ones[:index], 2, *ones[index + 1 :]]) if depth > 1 else base for index, depth in enumerate(depths)]
    return base + sum((depth - 1) * (flops - base) for depth, flops in zip(depths, deeper, strict=True) if depth > 1)


class _Run(NamedTuple):
    """FLOPs by operator of a pass, and of the forward pass of each module, by its name; of each attention the visible share of its
    products; the names of the long filters."""

    flops: Mapping[str, Mapping[Any, float]]
    shares: Mapping[str, float]
    filters: Sequence[str]


@lru_cache(maxsize=256)  # models that differ in depth alone are counted by the same runs
def _run(config: str, length: int, span: tuple[int, int], blocks: tuple[int, ...], backward: bool) -> _Run:
    """Of a model with as many ``blocks`` in each stack whose blocks are alike."""
    model = _skeleton(config)
    counter = FlopCounterMode(display=False, custom_mapping=_TRANSFORMS | _SOLVES)
    model.requires_grad_(backward)  # a slice of a parameter asks for gradients even where there are none, which the counter cannot follow
    try:
        with _shallow(model, blocks), _visible_shares(model) as shares:
            filters = [name for name, module in model.named_modules() if isinstance(module, LongFilter)]
            with counter, torch.device("meta"), torch.set_grad_enabled(backward):
                ids = torch.empty(1, length, dtype=torch.long)
                y = model(ids) if span == (0, length) else model(ids, span)
                if backward:
                    y.sum().backward()
    finally:
        model.requires_grad_(True)
    counts = counter.get_flop_counts()
    prefix = type(model).__name__ + "."  # by which the counter calls the modules inside
    named = {name.removeprefix(prefix): of_module for name, of_module in counts.items() if name.startswith(prefix)}
    return _Run(defaultdict(dict, named | {"": counts["Global"]}), shares, filters)


def _two_blocks_deep(config: BaseModelConfig) -> str:
    """The config as JSON with two blocks, at most, in each stack whose blocks are alike: the others cost what the second costs."""
    changes = {f"{name}.depth": 2 for name, stack in _stacks(config) if not stack.overrides and stack.depth > 2}
    return with_changes(config, changes).model_dump_json()


def _stacks(value: Any, name: str = "") -> Iterator[tuple[str, StackConfig]]:
    """The stacks inside a config, by dotted name."""
    if isinstance(value, StackConfig):
        yield name, value
        return
    fields = value if isinstance(value, Config) else enumerate(value) if isinstance(value, tuple) else ()
    for key, inner in fields:
        yield from _stacks(inner, f"{name}.{key}" if name else str(key))


def _alike(model: Model) -> dict[str, Stack]:
    """The stacks whose blocks are alike, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Stack) and module.alike}


def _depths(model: Model) -> dict[str, int]:
    """How many blocks each stack has whose blocks are alike."""
    return {name: len(stack.blocks) for name, stack in _alike(model).items()}


@contextmanager
def _shallow(model: Model, blocks: Sequence[int]) -> Iterator[None]:
    """Keeps that many blocks of each stack whose blocks are alike."""
    stacks = list(_alike(model).values())
    whole = [stack.blocks for stack in stacks]
    try:
        for stack, count in zip(stacks, blocks, strict=True):
            stack.blocks = stack.blocks[:count]
        yield
    finally:
        for stack, its_blocks in zip(stacks, whole, strict=True):
            stack.blocks = its_blocks


@contextmanager
def _visible_shares(model: Model) -> Iterator[dict[str, float]]:
    """Of each attention that runs, by its name, the share of its products that is visible."""
    shares: dict[str, float] = {}

    def note(name: str, mixer: Mixer, inputs: tuple[Any, ...], output: Tensor) -> None:
        hidden = output.shape[1] / (2 * inputs[0].shape[1]) if mixer.attention_flops == "half" else 0.0
        shares[name] = 1 - hidden

    mixers = {name: module for name, module in model.named_modules() if isinstance(module, Mixer) and module.attention_flops}
    hooks = [mixer.register_forward_hook(partial(note, name)) for name, mixer in mixers.items()]
    try:
        yield shares
    finally:
        for hook in hooks:
            hook.remove()
