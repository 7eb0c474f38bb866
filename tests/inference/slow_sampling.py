"""Sampling as its definition says it, in NumPy with a full sort: the slow twin of ``subquad.inference.sampling``. B rows, V ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from subquad.inference.sampling import Sampling

Weights = npt.NDArray[np.float64]


def slow_probabilities(logits: Tensor, sampling: Sampling, seen: Tensor | None = None, allowed: Tensor | None = None) -> Weights:
    """Weights ``(B, V)`` in proportion to the probabilities of ids."""
    scores = logits.double().numpy()
    if seen is not None and sampling.repetition_penalty is not None:
        penalised = np.where(scores < 0, scores * sampling.repetition_penalty, scores / sampling.repetition_penalty)
        scores = np.where(seen.numpy(), penalised, scores)
    if allowed is not None:
        scores = np.where(allowed.numpy(), scores, -np.inf)
    if sampling.temperature == 0:
        return np.where(np.arange(scores.shape[-1]) == scores.argmax(-1, keepdims=True), 1.0, 0.0)
    weights = np.exp((scores - scores.max(-1, keepdims=True)) / sampling.temperature)
    order = np.argsort(-weights, axis=-1, kind="stable")
    ranked = np.take_along_axis(weights, order, -1)
    if sampling.top_k is not None:
        ranked[:, sampling.top_k :] = 0
    if sampling.top_p is not None:
        cumulative = ranked.cumsum(-1)
        ranked[:, 1:][cumulative[:, :-1] >= sampling.top_p * cumulative[:, -1:]] = 0
    if sampling.min_p is not None:
        ranked[ranked < sampling.min_p * ranked[:, :1]] = 0
    filtered = np.empty_like(ranked)
    np.put_along_axis(filtered, order, ranked, -1)
    return filtered
