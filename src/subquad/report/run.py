"""The page of a run: what was trained, how it went, and what its objective shows of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.data.summary import data_summary
from subquad.format import NONE, capital, count, duration
from subquad.models import describe, parse_model
from subquad.parsing import parse_yaml
from subquad.report.figures import Chart, Series, Style, bars, loss_limit, write_figures
from subquad.report.pages import write_page
from subquad.run_log import Point, RunLog, Sample, read_run_log
from subquad.sections import Bars, Section, Table

MOST_SAMPLES = 8
CURVE = "learning_curve"


def write_report(run: Path, sections: Sequence[Section] = (), labels: Mapping[str, str] | None = None) -> Path:
    """Writes ``report.html`` into a run folder, and its figures beside it; returns the path of the page.

    ``sections`` are what the objective shows of the trained model, and ``labels`` what it calls its metrics, by their names in the log.
    Raises ``ValueError`` when ``run`` is not a run folder.
    """
    log = read_run_log(run)
    labels = _labels(log, labels or {})
    curves = _curves(log, labels)
    charts = curves | {file_name(part.title): bars(part) for part in sections if isinstance(part, Bars)}
    values = {
        "title": run.resolve().name,
        "lead": _lead(log),
        "headline": headline(log, labels),
        "facts": facts(log),
        "curves": list(curves),
        "parts": held_out_table(log, labels),
        "sections": [(type(part).__name__, part, file_name(part.title)) for part in sections],
        "samples": [(_caption(log, sample, labels), sample.text) for sample in _spaced(log.samples)],
        "log": log,
        "charts": charts,
        "pictures": write_figures(charts, run),
    }
    return write_page(run / "report.html", "run.html", values)


def learning_curve(log: RunLog, label: str) -> Chart:
    """The loss while training and in validation; the first steps, far above the rest, are cut off."""
    series = []
    if log.train:
        series.append(_series("train", log.train, "faint" if log.valid else "line"))
    if log.valid:
        series.append(_series("validation", log.valid, "marked"))
    top = loss_limit([point.loss for point in points] for points in (log.train, log.valid))
    return Chart("Learning curve", "training bytes", label, tuple(series), y_top=top)


def accuracy_curve(log: RunLog, name: str, label: str) -> Chart:
    """The validations' metric ``name``, a share, in percent."""
    points = [point for point in log.valid if name in point.metrics]
    series = Series("validation", [point.bytes for point in points], [100 * point.metrics[name] for point in points], "marked")
    return Chart(capital(label), "training bytes", f"{label} (%)", (series,))


def headline(log: RunLog, labels: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The most important figures: name, value, unit. Of a held-out part the accuracy, where there is one, and the loss."""
    values = [("Model", _model(log), "")]
    if log.parameters is not None:
        values.append(("Parameters", count(log.parameters), ""))
    for part, point in (("Validation", log.best), ("Test", log.test)):
        if point is not None:
            shares = [name for name in point.metrics if _is_accuracy(name)]
            values += [(f"{part} {labels[name]}", f"{point.metrics[name]:.1%}", "") for name in shares]
            values.append((f"{part} loss", f"{point.loss:.3f}", labels[log.loss_name or ""]))
    if last := log.last:
        values += [("Trained on", count(last.bytes, "B"), ""), ("Training time", duration(last.seconds), "")]
    return values


def _model(log: RunLog) -> str:
    try:
        return describe(parse_model(log.config))
    except ValueError:  # of another version, or damaged
        return str(log.config.get("kind", "model")).replace("_", " ")


def facts(log: RunLog) -> list[tuple[str, str]]:
    """When, where and on what the model was trained, and the settings that decide most."""
    values: list[tuple[str, str | None]] = [("Started", log.started), ("Machine", log.machine)]
    values += [(capital(name), rest) for name, _, rest in (line.partition(": ") for line in data_summary(_mapping(log.data)))]
    settings = _settings(log)
    values.append(("Files", ", ".join(map(str, _at(settings, ("data", "paths")) or ()))))
    values.append(("Initial weights", str(settings["init"]) if settings.get("init") else None))
    keys = {"learning rate": ("optim", "lr"), "steps": ("steps",), "batch": ("batch",), "window": ("data", "window"), "seed": ("seed",)}
    chosen = {name: _at(settings, path) for name, path in keys.items()}
    words = ", ".join(f"{name} {value:,g}" for name, value in chosen.items() if isinstance(value, int | float))
    values.append(("Settings", words))
    values.append(("Precision", ", ".join(str(value) for key in ("dtype", "device") if (value := settings.get(key)))))
    return [(name, value) for name, value in values if value]


def held_out_table(log: RunLog, labels: Mapping[str, str]) -> Table:
    """The metrics of the held-out parts, a row each; no row without any."""
    parts = {"validation": log.best, "test": log.test}
    rows = [
        [name, f"{point.loss:.4f}", *(f"{point.metrics[metric]:.4f}" if metric in point.metrics else NONE for metric in _others(log))]
        for name, point in parts.items()
        if point is not None
    ]
    if log.test is not None and log.baseline is not None:
        name, metric, value = log.baseline
        rows.append([f"test: {name}", *(f"{value:.4f}" if metric == each else NONE for each in (log.loss_name, *_others(log)))])
    note = "With the weights that are kept, the best in validation. Validation chose them, so that only the test part is new to them."
    return Table("Held-out parts", ["part", *(labels[name] for name in (log.loss_name or "", *_others(log)))], rows, note)


def _curves(log: RunLog, labels: Mapping[str, str]) -> dict[str, Chart]:
    curves = {CURVE: learning_curve(log, labels[log.loss_name or ""])} if log.train or log.valid else {}
    if len(log.valid) > 1:
        curves |= {name: accuracy_curve(log, name, labels[name]) for name in _others(log) if _is_accuracy(name)}
    return curves


def _labels(log: RunLog, given: Mapping[str, str]) -> dict[str, str]:
    """What to call each metric of the log."""
    names = (log.loss_name or "", *_others(log))
    return {name: given.get(name) or name.replace("_", " ") or "loss" for name in names}


def _others(log: RunLog) -> list[str]:
    """The names of the metrics of the held-out parts beside the loss."""
    points = (*log.valid, *([log.test] if log.test else []))
    return list(dict.fromkeys(name for point in points for name in point.metrics))


def _is_accuracy(name: str) -> bool:
    return name.endswith("accuracy")


def _settings(log: RunLog) -> Mapping[str, Any]:
    try:
        return _mapping(parse_yaml(log.settings))
    except ValueError:
        return {}


def _at(settings: Any, path: Sequence[str]) -> Any:
    for key in path:
        settings = _mapping(settings).get(key)
    return settings


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def file_name(title: str) -> str:
    """A title as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "figure"


def _series(name: str, points: Sequence[Point], style: Style) -> Series:
    return Series(name, [point.bytes for point in points], [point.loss for point in points], style)


def _lead(log: RunLog) -> str:
    last = log.last
    return f"step {last.step:,} · {log.ended or 'not finished'}" if last else "no measurement in its log"


def _spaced(samples: Sequence[Sample]) -> Sequence[Sample]:
    """All samples, or of many some that are evenly spaced, with the first and the last."""
    if len(samples) <= MOST_SAMPLES:
        return samples
    return [samples[round(index * (len(samples) - 1) / (MOST_SAMPLES - 1))] for index in range(MOST_SAMPLES)]


def _caption(log: RunLog, sample: Sample, labels: Mapping[str, str]) -> str:
    losses = {point.step: f", {point.loss:.2f} {labels[log.loss_name or '']}" for point in log.valid}
    return f"Step {sample.step:,}{losses.get(sample.step, '')}"
