"""What is minimised: the cross entropy of the next byte, over the valid bytes of windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORED = -100


def cross_entropy_sum(logits: Tensor, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """Nats of ids (B, T) under logits (B, T, V), summed over the first ``lengths[b]`` positions of each row, in float32 or better."""
    if min(lengths, default=ids.shape[1]) < ids.shape[1]:
        ends = torch.tensor(lengths, device=ids.device)[:, None]
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= ends, _IGNORED)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=_IGNORED, reduction="sum")


def bits_per_byte(nats: float, count: int) -> float:
    """Mean bits per byte of ``count`` bytes that cost ``nats`` together."""
    return nats / count / math.log(2)
