"""From logits to ids: temperature, top-k, top-p, min-p, repetition penalty, and one draw per row.

Everything is in float64 on the CPU whatever the model's device and type, and a row draws from its own generator, so a row of a batch
draws what the same prompt draws alone. Filters act in the order of Hugging Face: penalty, temperature, top-k, top-p, min-p.

B rows, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subquad.errors import RunError
from subquad.inference.checks import not_finite, real, whole

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sampling:
    """How an id is chosen.

    ``temperature`` 0 takes the most likely id. ``top_k`` keeps the k likeliest ids, ``top_p`` the fewest that hold that share of the
    probability, ``min_p`` those at least that fraction as likely as the likeliest. ``repetition_penalty`` divides the positive logits
    of ids already seen and multiplies the negative ones. None switches a filter off. Raises ``ValueError`` for values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        """Refuses values out of range; numbers of NumPy become Python's."""
        object.__setattr__(self, "temperature", real(self.temperature, "temperature"))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", whole(self.top_k, "top_k"))
        for name in ("top_p", "min_p", "repetition_penalty"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, real(getattr(self, name), name))
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (the most likely byte) or a positive number, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}: leave it out to keep all bytes")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be from 0 to 1, got {self.min_p}")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be a positive number (1 is none), got {self.repetition_penalty}")


def probabilities(logits: Tensor, sampling: Sampling, seen: Mask | None = None, allowed: Mask | None = None) -> npt.NDArray[np.float64]:
    """Weights ``(B, V)`` in float64, each row in proportion to the probabilities of its ids (it need not sum to 1).

    ``logits (B, V)``; ``seen (B, V)`` marks ids that the penalty acts on; ``allowed (B, V)`` those that may be drawn.
    Raises ``RunError`` where no finite logit is left.
    """
    scores = logits.detach().cpu().double().numpy()
    if seen is not None and sampling.repetition_penalty is not None:
        scores = np.where(seen, np.where(scores < 0, scores * sampling.repetition_penalty, scores / sampling.repetition_penalty), scores)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    peak = scores.max(-1, keepdims=True)
    if not np.isfinite(peak).all():
        raise RunError(not_finite("logits"))
    if sampling.temperature == 0:
        return np.where(np.arange(scores.shape[-1]) == scores.argmax(-1, keepdims=True), 1.0, 0.0)
    with np.errstate(over="ignore"):  # a temperature near 0 sends all but the peak to -inf, as it should
        return _filter(np.exp((scores - peak) / sampling.temperature), sampling)


def draw(
    logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator], seen: Mask | None = None, allowed: Mask | None = None
) -> list[int]:
    """One id per row: the inverse of the cumulative distribution at one uniform float64 number of that row's generator.

    Arguments and errors as in :func:`probabilities`; ``generators`` holds one CPU generator per row.
    """
    cumulative = probabilities(logits, sampling, seen, allowed).cumsum(-1)
    uniform = [torch.rand((), generator=generator, dtype=torch.float64).item() for generator in generators]
    total = cumulative[:, -1]
    # Rounding can lift uniform * total to the total itself, which is beyond the last id: the largest number below it does not.
    target = np.minimum(uniform * total, np.nextafter(total, 0))
    return [int(row.searchsorted(value, side="right")) for row, value in zip(cumulative, target, strict=True)]


def _filter(weights: npt.NDArray[np.float64], sampling: Sampling) -> npt.NDArray[np.float64]:
    if sampling.top_k is None and sampling.top_p is None and sampling.min_p is None:
        return weights
    order = np.argsort(-weights, axis=-1, kind="stable")
    ranked = np.take_along_axis(weights, order, -1)
    if sampling.top_k is not None:
        ranked[:, sampling.top_k :] = 0
    if sampling.top_p is not None and sampling.top_p < 1:
        cumulative = ranked.cumsum(-1)
        ranked[:, 1:][cumulative[:, :-1] >= sampling.top_p * cumulative[:, -1:]] = 0
    if sampling.min_p is not None:
        ranked[ranked < sampling.min_p * ranked[:, :1]] = 0
    filtered = np.empty_like(ranked)
    np.put_along_axis(filtered, order, ranked, -1)
    return filtered
