"""What inference asks of a model, checked once at the door, and the mode it runs in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from subquad.models.base import CausalModel, TokenCodec, causal_model, unwrap
from subquad.models.encoder import Encoder

BYTES = 256


def byte_model(model: nn.Module) -> CausalModel:
    """The model, if it is a causal model on bytes; what wraps one (``torch.compile``) passes too.

    Raises ``ValueError`` for a model that cannot decode and for one whose ids are not bytes.
    """
    causal, tokenizer = text_model(model)
    if tokenizer is not None:
        raise ValueError("a byte model is needed here, got a token model: train one without data.tokenizer")
    return causal


def text_model(model: nn.Module) -> tuple[CausalModel, TokenCodec | None]:
    """A causal model and its tokenizer, None where its ids are bytes.

    Raises ``ValueError`` for a model that cannot decode and for a token model without its tokenizer.
    """
    model = unwrap(model)
    if isinstance(model, Encoder):
        raise ValueError(
            "an encoder guesses what is hidden and says nothing of what comes next, so it neither generates nor scores: "
            "use it with subquad embed, fine-tune it with subquad train classifier, or take a causal model"
        )
    causal = causal_model(model, "generating or scoring")
    tokenizer = causal.tokenizer
    if tokenizer is None and causal.config.vocab != BYTES:
        raise ValueError(
            f"a byte model has {BYTES} ids and this one has {causal.config.vocab}: it is a token model and needs its tokenizer "
            "(tokenizer.json in the run folder)"
        )
    return causal, tokenizer


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inference mode with these modules in evaluation mode; each gets its own mode back."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
