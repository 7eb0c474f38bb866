"""What is minimised: the cross entropy of the next byte, over the valid bytes of windows, or over those that the data say are learned.

And what is validated: the same in bits per byte; where the data say what is an answer, bits per answer and how many answers are right.
B windows, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data import Batch, Tokenizer
from subquad.models.model import CausalModel
from subquad.ops.answers import judge_answers

_IGNORED = -100

PositionSpan = tuple[int, int]


def cross_entropy_sum(logits: Tensor, ids: Tensor, lengths: Sequence[int], counted: Tensor | None = None) -> Tensor:
    """Nats of ids (B, T) under logits (B, T, V), summed over the first ``lengths[b]`` positions of each row, in float32 or better.

    Of those, only the ``counted`` ones, a mask (B, T), where there is one.
    """
    if min(lengths, default=ids.shape[1]) < ids.shape[1]:
        ends = torch.tensor(lengths, device=ids.device)[:, None]
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= ends, _IGNORED)
    if counted is not None:
        ids = ids.masked_fill(~counted, _IGNORED)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=_IGNORED, reduction="sum")


def bits_per_byte(nats: float, count: int) -> float:
    """Mean bits per byte of ``count`` bytes that cost ``nats`` together."""
    return nats / count / math.log(2)


def batch_nats(model: CausalModel, batch: Batch, device: torch.device, dtype: str, span: PositionSpan | None = None) -> Tensor:
    """The summed cross entropy of what windows teach, at the positions of a span if one is given."""
    first, end = span or batch.whole
    logits, ids = _logits(model, batch, device, dtype, span)
    counted = None if batch.learned is None else torch.from_numpy(batch.learned[:, first:end]).to(device)
    return cross_entropy_sum(logits, ids, (batch.lengths.clip(first, end) - first).tolist(), counted)


def validation(
    model: CausalModel, parts: Sequence[Batch], device: torch.device, dtype: str, tokenizer: Tokenizer | None, slack: int
) -> tuple[float, float | None]:
    """Bits per byte of windows, and None; where there are answers, bits per answer and the share that is right, within ``slack``."""
    nats, right, count = 0.0, 0, 0
    for part in parts:
        if part.answers is None:
            nats += batch_nats(model, part, device, dtype).item()
            count += part.bytes(part.whole, tokenizer)
        else:
            found, hits = judge_answers(*_logits(model, part, device, dtype), torch.from_numpy(part.answers).to(device), slack)
            nats, right, count = nats + found, right + hits, count + part.count(part.answers, part.whole)
    return bits_per_byte(nats, count), None if parts[0].answers is None else right / count


def _logits(model: CausalModel, batch: Batch, device: torch.device, dtype: str, span: PositionSpan | None = None) -> tuple[Tensor, Tensor]:
    """Logits and ids at the positions of a span, or at all of them."""
    ids = torch.from_numpy(batch.ids).to(device).long()
    first, end = span or batch.whole
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(ids) if span is None else model.span_logits(ids, first, end)
    return logits, ids[:, first:end]
