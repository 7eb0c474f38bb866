"""Axes of a chart: limits, round ticks and their labels, where labels go that would cover each other, and points that would."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Limits, ticks and their labels; ``minor`` are places between the powers of ten, with a faint line and no label."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    minor: tuple[float, ...] = ()

    def place(self, value: float) -> float:
        """Where ``value`` lies: 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def value_axis(values: Sequence[float], log: bool = False, tight: bool = False) -> Axis:
    """An axis that holds ``values``; unless ``tight``, a linear one ends at a tick on both sides."""
    low, high = (min(values), max(values)) if values else (1.0, 2.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (low / 1.25, high * 1.25) if log else (low - (abs(low) / 10 or 1.0), high + (abs(high) / 10 or 1.0))
    if log:
        low, high = (low, high) if tight else (low / (high / low) ** 0.04, high * (high / low) ** 0.04)
        ticks = _log_ticks(low, high)
    else:
        step = _step(low, high)
        if not tight:
            low, high = math.floor(low / step + 1e-12) * step, math.ceil(high / step - 1e-12) * step  # no more than rounding is forgiven
        ticks = _multiples(low, high, step)
    if log:
        labels = [tick_labels([tick])[0] for tick in ticks]  # one unit for powers of ten would need many digits
        return Axis(low, high, log, tuple(ticks), tuple(labels), tuple(_minor_ticks(low, high)))
    return Axis(low, high, log, tuple(ticks), tuple(tick_labels(ticks)))


def bar_axis(places: Sequence[float], most: int = 16) -> Axis:
    """An axis with a tick under each bar, or under every n-th where there are more than ``most``."""
    ordered = sorted(set(places))
    half, ticks = bar_step(ordered) / 2, ordered[:: math.ceil(len(ordered) / most)]
    return Axis(ordered[0] - half, ordered[-1] + half, False, tuple(ticks), tuple(tick_labels(ticks)))


def bar_step(places: Sequence[float]) -> float:
    """The distance of neighbouring bars."""
    ordered = sorted(set(places))
    return min((b - a for a, b in zip(ordered, ordered[1:], strict=False)), default=1.0)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """``places`` moved up as little as labels need that are ``gap`` apart; the order of the input is kept."""
    moved, last = [0.0] * len(places), -math.inf
    for index in sorted(range(len(places)), key=lambda i: places[i]):
        last = moved[index] = max(places[index], last + gap)
    return moved


def thinned(points: list[tuple[float, float]], most: int = 1200) -> list[tuple[float, float]]:
    """At most about ``most`` points that look the same: the lowest and the highest of each run of neighbours."""
    if len(points) <= most:
        return points
    size = math.ceil(2 * len(points) / most)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        run = range(start, min(start + size, len(points)))
        kept |= {min(run, key=lambda i: points[i][1]), max(run, key=lambda i: points[i][1])}
    return [points[index] for index in sorted(kept)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels in one unit (k, M, G, T, P, E) with as many digits as tell the ticks apart; a wide range takes a unit for each tick."""
    if len(ticks) > 1 and ticks[0] > 0 and ticks[-1] / ticks[0] > 200:
        return [tick_labels([tick])[0] for tick in ticks]
    largest = max((abs(tick) for tick in ticks), default=0.0)
    units = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    scale, unit = next(((size, name) for size, name in units if largest >= size), (1.0, "")) if largest >= 1e4 else (1.0, "")
    for digits in range(10):
        labels = [f"{tick / scale:.{digits}f}" for tick in ticks]
        if all(abs(float(label) * scale - tick) <= largest * 1e-6 for label, tick in zip(labels, ticks, strict=True)):
            return [label + unit if float(label) else "0" for label in labels]
    return [f"{tick:.3g}" for tick in ticks]


def _step(low: float, high: float) -> float:
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    return unit * next(nice for nice in (1, 2, 5, 10) if nice >= raw / unit - 1e-9)


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, (last - first) // 6)
    for nice in ((1,), (1, 2, 5), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        ticks = [n * 10.0**power for power in range(first, last + 1, every) for n in nice]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            return ticks
    return [tick for tick in _multiples(low, high, _step(low, high)) if tick > 0]


def _minor_ticks(low: float, high: float, most: float = 5.0) -> list[float]:
    """Two to nine times each power of ten, on an axis of at least one and at most ``most`` powers."""
    if not 1.0 <= math.log10(high / low) <= most:
        return []
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    return [tick for power in powers for n in range(2, 10) if low <= (tick := n * 10.0**power) <= high]
