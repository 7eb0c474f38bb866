"""Losses that tell the passages of a query from others, of similarities s (B, P) of B queries and P passages, the cosines of their vectors.

``known[i, j]`` says that passage j answers query i, and ``own[i]`` is the column of the one that query i learns.

    InfoNCE (arXiv 1807.03748), temperature t:              loss_i = -log exp(s_io / t) / sum_j exp(s_ij / t),   o = own[i],
                                                            j over o and all passages that are not known to answer i
    orthogonal (M2-BERT's retrieval, arXiv 2402.07440):     loss_i = mean_j (s_ij - known_ij)^2

The second draws what belongs together to one direction and all else to right angles, whatever else is in the batch. Cost: B P.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def infonce(similarity: Tensor, own: Tensor, known: Tensor, temperature: float) -> Tensor:
    """(B, P), own (B,), known (B, P) -> the loss of each query, (B,)."""
    return F.cross_entropy(contenders(similarity, own, known) / temperature, own, reduction="none")


def orthogonal(similarity: Tensor, known: Tensor) -> Tensor:
    """(B, P), known (B, P) -> the loss of each query, (B,)."""
    return (similarity - known.to(similarity)).square().mean(1)


def contenders(similarity: Tensor, own: Tensor, known: Tensor) -> Tensor:
    """The similarities (B, P) without those of other passages that are right too: minus infinity stands there."""
    others = known.scatter(1, own.unsqueeze(1), False)
    return similarity.masked_fill(others, -float("inf"))
