"""How well answers are known: what they cost, and at how many of them the likeliest id is right, given all that truly comes before.

B batch, T positions, V vocabulary. Cost linear in T.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def score_answers(logits: Tensor, ids: Tensor, answers: Tensor, slack: int = 0) -> tuple[float, int]:
    """Nats of ids (B, T) under logits (B, T, V), summed over ``answers``, a mask (B, T); and how many of them are right.

    Right is where the largest logit is at the id, or at most ``slack`` ids from it.
    """
    found, wanted = logits[answers], ids[answers]
    nats = F.cross_entropy(found.to(torch.promote_types(found.dtype, torch.float32)), wanted, reduction="sum")
    right = (found.argmax(-1) - wanted).abs() <= slack
    return nats.item(), int(right.sum())
