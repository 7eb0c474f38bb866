"""The page of a run: what was trained, how it went, and what its objective shows of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from subquad.format import count, duration
from subquad.report.figures import Chart, Series, Style, bars, loss_limit, write_figures
from subquad.report.pages import write_page
from subquad.run_log import Point, RunLog, Sample, read_run_log
from subquad.sections import Bars, Section

MOST_SAMPLES = 8
CURVE = "learning_curve"


def write_report(run: Path, sections: Sequence[Section] = (), loss_label: str | None = None) -> Path:
    """Writes ``report.html`` into a run folder, and its figures beside it; returns the path of the page.

    ``sections`` are what the objective shows of the trained model, and ``loss_label`` is what it calls its loss; None takes the name in the
    log. Raises ``ValueError`` when ``run`` is not a run folder.
    """
    log = read_run_log(run)
    label = loss_label or (log.loss_name or "loss").replace("_", " ")
    charts = {CURVE: learning_curve(log, label)} if log.train or log.valid else {}
    charts |= {file_name(part.title): bars(part) for part in sections if isinstance(part, Bars)}
    values = {
        "title": run.resolve().name,
        "lead": _lead(log),
        "headline": headline(log, label),
        "curve": CURVE,
        "sections": [(type(part).__name__, part, file_name(part.title)) for part in sections],
        "samples": [(_caption(log, sample, label), sample.text) for sample in _spaced(log.samples)],
        "log": log,
        "charts": charts,
        "pictures": write_figures(charts, run),
    }
    return write_page(run / "report.html", "run.html", values)


def learning_curve(log: RunLog, loss_label: str) -> Chart:
    """The loss while training and in validation; the first steps, far above the best validation, are cut off."""
    series = []
    if log.train:
        series.append(_series("train", log.train, "faint" if log.valid else "line"))
    if log.valid:
        series.append(_series("validation", log.valid, "marked"))
    top = loss_limit([point.loss for point in log.valid or log.train])  # a training loss is that of one batch, and noisy
    return Chart("Learning curve", "training bytes", loss_label, tuple(series), y_top=top)


def headline(log: RunLog, loss_label: str) -> list[tuple[str, str, str]]:
    """The most important figures: name, value, unit."""
    values = [("Model", str(log.config.get("kind", "model")).replace("_", " "), "")]
    if log.parameters is not None:
        values.append(("Parameters", count(log.parameters), ""))
    if best := log.best:
        values.append(("Best validation", f"{best.loss:.3f}", loss_label))
    if last := log.last:
        values += [("Trained on", count(last.bytes, "B"), ""), ("Training time", duration(last.seconds), "")]
    return values


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


def _caption(log: RunLog, sample: Sample, loss_label: str) -> str:
    losses = {point.step: f", {point.loss:.2f} {loss_label}" for point in log.valid}
    return f"Step {sample.step:,}{losses.get(sample.step, '')}"
