"""What a given continuation costs after a given prompt."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from subquad.inference.checks import evaluating
from subquad.models.base import CausalModel


def conditional_bits(model: CausalModel, prompt: bytes, continuation: bytes) -> float:
    """Bits, ``-log2`` of the probability that the model writes ``continuation`` after ``prompt`` when it is given the prompt as such.

    A token model reads the two apart, as a user's prompt and its answer are, so the same text cut elsewhere may cost something else;
    a byte model pays the same wherever the cut is. Both together must fit the context: ``ValueError`` otherwise.
    """
    if not continuation:
        return 0.0
    tokenizer = model.tokenizer
    before, after = ([*text] if tokenizer is None else tokenizer.encode(text).tolist() for text in (prompt, continuation))
    device = next(model.parameters()).device
    ids = torch.tensor([before + after], dtype=torch.long, device=device)
    with evaluating(list(model.modules())):
        logits = model(ids)[0, len(before) :]
        nats = functional.cross_entropy(logits.double(), ids[0, len(before) :], reduction="sum").item()
    return nats / math.log(2)
