"""The charts of a comparison: learning curves, bits by position, and cost by length. A model has the same colour in all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean

from subquad.comparison.results import CurvePoint, Outcome, Results
from subquad.report.figures import Chart, Level, Series, Style, loss_limit

BITS = "bits per byte"
ACCURACY = "accuracy (%)"

Curve = tuple[int, str, Outcome]  # place and name of the model, and its run
_AXES = {"flops": (0, "training FLOPs"), "time": (1, "training time"), "bytes": (2, "training bytes")}


def learning_curves(results: Results) -> dict[str, Chart]:
    """Two charts for each text that has validation curves, by training FLOPs (by bytes where nobody counts FLOPs) and by time.

    The keys are names of files. A curve is that of the model's first seed, of the accuracy where there is one. The first
    points, far above the rest, are cut off. Baselines are dashed levels.
    """
    charts: dict[str, Chart] = {}
    names = file_names(results.data)
    for data in results.data:
        curves = [(hue, model, outcome) for hue, model in enumerate(results.models) if (outcome := _first_curve(results, model, data))]
        if curves:
            uncounted = any(point[0] is None for _, _, outcome in curves for point in outcome.curve)
            for axis in ("bytes" if uncounted else "flops", "time"):
                charts[f"curve_{names[data]}_by_{axis}"] = _curves(results, data, curves, axis)
    return charts


def inside_chart(results: Results) -> Chart | None:
    """Bits at each byte of a patch, a series for each model with patches; bars where there is one."""
    rows, note = _over_texts(results, "inside")
    style: Style = "bars" if len(rows) == 1 else "marked"
    series = [Series(model, range(1, len(bits) + 1), bits, style, None if style == "bars" else hue) for hue, model, bits in rows]
    return Chart("Bits by position inside the patch", "byte of the patch", BITS, tuple(series), note=note) if series else None


def window_chart(results: Results) -> Chart | None:
    """Bits at each part of the context, a line for each model, placed at the middle of the part, in bytes from the window's start."""
    rows, note = _over_texts(results, "by_position")
    series = [
        Series(model, [(part + 0.5) * _context(results, model) / len(bits) for part in range(len(bits))], bits, "marked", hue)
        for hue, model, bits in rows
    ]
    return Chart("Bits by position in the window", "bytes from the start of the window", BITS, tuple(series), note=note) if series else None


def cost_chart(results: Results) -> Chart | None:
    """FLOPs per byte against length; the points of published figures as marks in the colour of their curve."""
    series = []
    for hue, curve in enumerate(results.costs):
        if curve.lengths:
            series.append(Series(curve.name, curve.lengths, curve.flops, "line", hue))
        if curve.published:
            lengths, flops = zip(*curve.published, strict=True)
            series.append(Series(f"{curve.name}, published" if curve.lengths else curve.name, lengths, flops, "marks", hue))
    if not series:
        return None
    return Chart("Cost by length", "length (bytes)", "forward FLOPs per byte", tuple(series), log_x=True, log_y=True)


def file_names(names: Sequence[str]) -> dict[str, str]:
    """Each name as part of a file's name, no two the same."""
    words: dict[str, str] = {}
    for name in names:
        plain = word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "text"
        count = 1
        while word in words.values():
            count += 1
            word = f"{plain}-{count}"
        words[name] = word
    return words


def time_unit(longest: float) -> tuple[str, float]:
    """The unit for an axis of times up to ``longest`` seconds, and its seconds."""
    return ("seconds", 1.0) if longest < 300 else ("minutes", 60.0) if longest < 18_000 else ("hours", 3600.0)


def _context(results: Results, model: str) -> float:
    return next(float(outcome.config.get("max_len", 100)) for outcome in results.outcomes if outcome.model == model and outcome.by_position)


def _first_curve(results: Results, model: str, data: str) -> Outcome | None:
    return next((outcome for outcome in results.finals(model, data) if outcome.curve), None)


def _curves(results: Results, data: str, curves: Sequence[Curve], axis: str) -> Chart:
    place, words = _AXES[axis]
    unit, size = time_unit(max(point[1] for _, _, outcome in curves for point in outcome.curve)) if axis == "time" else ("", 1.0)
    accurate = any(outcome.accuracies for _, _, outcome in curves)
    baselines = [] if accurate else [baseline for baseline in results.baselines if baseline.data == data]
    levels = tuple(Level(baseline.name, baseline.bits_per_byte) for baseline in baselines)
    limit = loss_limit([point[3] for point in outcome.curve] for _, _, outcome in curves)
    top = max([limit, *(1.05 * level.y for level in levels)])
    series = []
    for hue, model, outcome in curves:
        points = outcome.curve if accurate else _from_below(outcome.curve, top)
        heights = [100 * share for share in outcome.accuracies] if accurate else [point[3] for point in points]
        name = f"{model} (diverged)" if outcome.status == "diverged" else model
        series.append(Series(name, [(point[place] or 0) / size for point in points][: len(heights)], heights, "marked", hue))
    title, label = f"{data}: validation by {words}", f"{words} ({unit})" if unit else words
    y_label = ACCURACY if accurate else curves[0][2].unit
    return Chart(title, label, y_label, tuple(series), levels, log_x=True, y_top=105.0 if accurate else top)


def _from_below(curve: Sequence[CurvePoint], top: float) -> Sequence[CurvePoint]:
    """The points from the last one before the curve comes below ``top``, so that the axis begins where something is seen."""
    first = next((index for index, point in enumerate(curve) if point[3] <= top), len(curve))
    return curve[max(first - 1, 0) :]


def _over_texts(results: Results, name: str) -> tuple[list[tuple[int, str, list[float]]], str]:
    """Place, name and figures of each model that has them, and over which texts they are means.

    They are means over seeds and then over the texts that all these models have; of rows of unequal lengths, the shorter one counts.
    """
    means = {(model, data): _over_seeds(results.finals(model, data), name) for model in results.models for data in results.data}
    models = [model for model in results.models if any(means[model, data] for data in results.data)]
    texts = [data for data in results.data if models and all(means[model, data] for model in models)]
    if not texts:
        return [], ""
    rows = {model: [mean(column) for column in zip(*[means[model, data] for data in texts], strict=False)] for model in models}
    words = f"On {texts[0]}." if len(texts) == 1 else f"Means over {', '.join(texts)}."
    return [(hue, model, rows[model]) for hue, model in enumerate(results.models) if model in rows], words


def _over_seeds(outcomes: Sequence[Outcome], name: str) -> list[float]:
    rows = [row for outcome in outcomes if outcome.status == "done" and len(row := getattr(outcome, name)) > 1]
    return [mean(column) for column in zip(*rows, strict=False)]
