"""What inference needs of a model, checked once, and the mode it runs in."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor, nn

from subquad.errors import RunError
from subquad.models.base import CausalModel, causal_model
from subquad.text_tokenizer import TextTokenizer

BYTES = 256

Progress = Callable[[int, int], object]  # called with what is done, and with all of it


def byte_model(model: nn.Module) -> CausalModel:
    """The causal model on bytes inside of any wrappers (``torch.compile``, DDP).

    Raises ``ValueError`` for a model that cannot decode and for one whose ids are not bytes.
    """
    causal, tokenizer = text_model(model)
    if tokenizer is not None:
        raise ValueError("expected a byte model, got a token model: train a model without data.tokenizer")
    return causal


def text_model(model: nn.Module) -> tuple[CausalModel, TextTokenizer | None]:
    """The causal model inside of any wrappers, and its tokenizer, None where its ids are bytes.

    States are made by it; a forward pass goes through the wrapper, so that what was compiled runs.

    Raises ``ValueError`` for a model that cannot decode and for a token model without its tokenizer.
    """
    causal = causal_model(model, "generating or scoring")
    tokenizer = causal.tokenizer
    if tokenizer is None and causal.config.vocab != BYTES:
        raise ValueError(
            f"a byte model has {BYTES} ids and this one has {causal.config.vocab}: it is a token model and needs its tokenizer "
            "(tokenizer.json in the run folder)"
        )
    return causal, tokenizer


def whole(value: SupportsIndex | float, name: str) -> int:
    """An option that counts: an ``int``, or a number of NumPy or a ``float`` that is one. Raises ``ValueError`` with its name."""
    try:
        return operator.index(value)  # type: ignore[arg-type]  # a float has none
    except TypeError:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None


def real(value: float, name: str) -> float:
    """An option that is a number. Raises ``ValueError`` with its name for anything else."""
    if isinstance(value, str | bytes) or not isinstance(value, SupportsFloat):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def expect_finite(values: Tensor, what: str) -> None:
    """Raises ``RunError`` where a model gives numbers that are none."""
    if not values.isfinite().all():
        raise RunError(not_finite(what))


def not_finite(what: str) -> str:
    """The sentence for numbers of a model that are none."""
    return f"the model's {what} are not finite: its weights are damaged or its training diverged, use another checkpoint"


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a model are; the CPU for one without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inference mode with these modules in evaluation mode; each gets its own mode back.

    A module in training mode is switched in place, for all threads: those that share a model call ``model.eval()`` first, which is then
    left alone.
    """
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
