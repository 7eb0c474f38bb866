"""Learning rates as pure functions of the step, counted from 0.

Warmup is linear, peak * (step + 1) / warmup, so that no step is wasted on a rate of 0. After it, with r the part of the way from the end
of warmup to the last step that is left (1 at its start, 1 / (steps - warmup) at the last step):

- polynomial (metaseq): end + (peak - end) * r^power
- cosine: end + (peak - end) * (1 - cos(pi * r)) / 2
- wsd (warmup, stable, decay): peak, then linear to end over the last ``decay`` of all steps
"""

from __future__ import annotations

import math

from subquad.training.config import ScheduleConfig


def resolve_warmup(config: ScheduleConfig, steps: int) -> int:
    """Steps of warmup: as set, or 500, or a tenth of the steps when that is fewer."""
    return min(500, steps // 10) if config.warmup is None else config.warmup


def learning_rate(config: ScheduleConfig, peak: float, steps: int, step: int) -> float:
    """The rate of one step of ``steps``; a run shorter than its warmup only warms up."""
    warmup = resolve_warmup(config, steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (config.end + (1 - config.end) * _shape(config, (steps - step) / max(steps - warmup, 1), (steps - step) / steps))


def _shape(config: ScheduleConfig, remaining: float, remaining_of_all: float) -> float:
    match config.kind:
        case "polynomial":
            return float(remaining**config.power)
        case "cosine":
            return (1 - math.cos(math.pi * remaining)) / 2
        case "wsd":
            return min(1.0, remaining_of_all / config.decay) if config.decay else 1.0
