"""From logits to ids: temperature, top-k, top-p, min-p, repetition penalty, and one draw per row.

Everything is in float64 on the device of the logits, whatever their type, and a row draws from its own generator, so a row of a batch draws
what the same prompt draws alone. Filters act in the order of Hugging Face: penalty, temperature, top-k, top-p, min-p.

B rows, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.errors import RunError
from subquad.inference.checks import not_finite, real, whole

_NUCLEUS = 1024  # ids that are sorted at first for top-p: of a model that has learned something they hold nearly everything


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


def probabilities(logits: Tensor, sampling: Sampling, seen: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
    """Weights ``(B, V)`` in float64, each row in proportion to the probabilities of its ids (it need not sum to 1).

    ``logits (B, V)``; ``seen (B, V)`` marks ids that the penalty acts on; ``allowed (B, V)`` or ``(V,)`` those that may be drawn.
    A row without a finite logit that may be drawn is NaN.
    """
    device = "cpu" if logits.device.type == "mps" else logits.device  # Metal has no float64
    scores = logits.detach().to(device, torch.float64, copy=True)  # what follows is in place: passes over large vocabularies cost
    if seen is not None and sampling.repetition_penalty is not None:
        penalty = sampling.repetition_penalty
        scores = torch.where(seen.to(device), torch.where(scores < 0, scores * penalty, scores / penalty), scores)
    if allowed is not None:
        scores.masked_fill_(~allowed.to(device), -math.inf)
    peak = scores.amax(-1, keepdim=True)
    peak = peak.masked_fill(~peak.isfinite(), math.nan)
    if sampling.temperature == 0:
        return torch.zeros_like(scores).scatter_(1, scores.argmax(-1, keepdim=True), 1.0) + (peak - peak)
    weights = scores.sub_(peak).div_(sampling.temperature).exp_()  # a temperature near 0 sends all but the peak to 0, as it should
    return _filtered(weights, sampling)


def draw(
    logits: Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    seen: Tensor | None = None,
    allowed: Tensor | None = None,
) -> list[int]:
    """One id per row: the inverse of the cumulative distribution at one uniform float64 number of that row's generator.

    Arguments as in :func:`probabilities`; ``generators`` holds one CPU generator per row. Raises ``RunError`` where no finite logit is
    left.
    """
    cumulative = probabilities(logits, sampling, seen, allowed).cumsum_(-1)  # (B, V)
    total = cumulative[:, -1:]
    uniform = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    # Rounding can lift uniform * total to the total itself, which is beyond the last id: the largest number below it does not.
    target = torch.minimum(uniform.to(total.device)[:, None] * total, total.nextafter(torch.zeros_like(total)))
    ids = torch.searchsorted(cumulative, target, right=True).masked_fill(total.isnan(), -1)
    drawn: list[int] = ids[:, 0].tolist()
    if -1 in drawn:
        raise RunError(not_finite("logits"))
    return drawn


def _filtered(weights: Tensor, sampling: Sampling) -> Tensor:
    """The weights (B, V), of which the largest is 1, with those that top-k, top-p and min-p leave out at 0."""
    top_k, top_p = sampling.top_k, sampling.top_p
    if top_k is not None and top_k < weights.shape[1]:
        weights = _largest(weights, weights.topk(top_k).values, torch.full_like(weights[:, :1], top_k, dtype=torch.int64))
    if top_p is not None and top_p < 1:
        weights = _largest(weights, *_nucleus(weights, top_p))
    if sampling.min_p is not None:
        weights.masked_fill_(weights < sampling.min_p, 0.0)
    return weights


def _nucleus(weights: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The largest weights (B, n) of each row, largest first, and how many of them (B, 1) hold the share ``top_p``."""
    wanted, size = top_p * weights.sum(-1, keepdim=True), _NUCLEUS
    while True:
        ranked = weights.topk(min(size, weights.shape[1])).values
        before = ranked.cumsum(-1)[:, :-1] < wanted  # whether an id is needed beside all that are larger
        if size >= weights.shape[1] or not before[:, -1].any():
            return ranked, 1 + before.sum(-1, keepdim=True)
        size *= 8


def _largest(weights: Tensor, ranked: Tensor, count: Tensor) -> Tensor:
    """The ``count`` (B, 1) largest weights of each row, and 0 for the others; of equal ones those with the smaller ids.

    ``ranked`` (B, n) holds the largest, in order.
    """
    least = ranked.gather(1, count - 1)
    equal = weights == least
    spare = count - (weights > least).sum(-1, keepdim=True)
    return weights.masked_fill_((weights < least) | (equal & (equal.cumsum(-1) > spare)), 0.0)
