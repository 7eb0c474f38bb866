"""Reports: one HTML page for a run, and one that sets several runs beside compressors.

A page is self-contained: pictures and style inside it, no script, nothing fetched. Its charts are also written beside it as SVG files, and
as PNG files where matplotlib is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subquad.evaluation.charts import Chart, Level, Series, Style, png, svg
from subquad.evaluation.markup import escape
from subquad.evaluation.page import counted, duration, figures, folded, folded_json, grid, page, picture, ranking, section, table, text_card
from subquad.evaluation.passage import Numbers, Passage, passage_html, passage_key
from subquad.objectives import find_metric
from subquad.objectives.sections import Bars, Section, Table
from subquad.objectives.sections import Passage as ScoredPassage
from subquad.run_log import Point, RunLog, read_run_log
from subquad.system import write_atomic

MOST_SAMPLES = 8
_SURPRISE = "The stronger the colour of a character, the more bits the model paid for its bytes. Rest the pointer on one to read them."
_INSIDE = "The global model knows what comes before the patch; the bytes inside it are known to the local model only."
_LABELS = "With the best weights by validation. F1 is that of the second class, or the mean over more than two."
_CURVES = "Curves: validation while training. Dashed: compressors on the test part."


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    ``test`` is in bits per byte, on the same bytes for every entry and baseline. ``sample`` is a text the model wrote.
    ``parameters`` is counted from the saved weights when None.
    """

    name: str
    run: Path
    test: float
    sample: str = ""
    surprise: Passage | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Baseline:
    """A compressor, or anything else that pays bits for bytes; ``note`` says what it was given."""

    name: str
    bits_per_byte: float
    note: str = ""


def write_report(run: Path, sections: Sequence[Section] = ()) -> Path:
    """Writes ``report.html`` into a run folder, and its charts beside it; returns the path of the page.

    ``sections`` are what the objective shows of the trained model. Raises ``ValueError`` when ``run`` is not a run folder.
    """
    record = read_run_log(run)
    curve = _learning_curve(record)
    bars = next((part for part in sections if isinstance(part, Bars)), None)
    patch = _inside_chart(list(bars.values)) if bars else None
    write_charts({"learning_curve": curve, "inside_patch": patch}, run)
    passage = next((part for part in sections if isinstance(part, ScoredPassage)), None)
    surprise = Passage(passage.data, passage.bits, passage.patch_size, passage.first, passage.title) if passage else None
    tables = [part for part in sections if isinstance(part, Table)]
    parts = [
        section("Figures", figures(_headline(record, None, None))),
        *(
            section(part.title, table(part.header, [[escape(cell) for cell in row] for row in part.rows]), note=part.note)
            for part in tables
        ),
        section("Learning curve", picture(curve) if curve else ""),
        section("Bits by position inside the patch", picture(patch) if patch else "", note=_INSIDE),
        section("Surprise", *([passage_key(surprise.patch_size > 1), passage_html(surprise)] if surprise else []), note=_SURPRISE),
        section("Samples while training", grid(_samples(record)), note="What the model wrote at each stage, oldest first."),
        _configuration(record, record.command),
    ]
    path = run / "report.html"
    write_atomic(path, page(run.resolve().name, _lead(record), parts).encode("utf-8"))
    return path


def write_comparison(
    path: Path,
    entries: Sequence[Entry],
    baselines: Sequence[Baseline] = (),
    title: str = "Comparison",
    intro: str = "",
    command: str | None = None,
) -> Path:
    """Writes a page that compares runs with each other and with compressors, and its charts beside it; returns ``path``.

    Raises ``ValueError`` without entries, or when the run of one is not a run folder.
    """
    if not entries:
        raise ValueError("a comparison needs at least one run, got none: give the runs to compare")
    records = [read_run_log(entry.run) for entry in entries]
    charts = {
        f"{path.stem}_by_bytes": _overlaid(entries, records, baselines, time=False),
        f"{path.stem}_by_time": _overlaid(entries, records, baselines, time=True),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_charts(charts, path.parent)
    passages = [(entry, entry.surprise) for entry in entries if entry.surprise is not None]
    key = passage_key(any(passage.patch_size > 1 for _, passage in passages)) if passages else ""
    parts = [
        section("Bits per byte on the test part", _standings(entries, records, baselines), note="Fewer is better."),
        *(section(chart.title, picture(chart), note=_CURVES if baselines else "") for chart in charts.values() if chart),
        section("Samples", grid(text_card(entry.name, entry.sample) for entry in entries if entry.sample)),
        section("Surprise", key, grid(f"{_caption(entry)}{passage_html(passage)}" for entry, passage in passages), note=_SURPRISE),
        section("Configurations", *(folded_json(entry.name, record.config) for entry, record in zip(entries, records, strict=True))),
        section("To repeat this", text_card("Command", command) if command else ""),
    ]
    write_atomic(path, page(title, intro, parts).encode("utf-8"))
    return path


def _learning_curve(record: RunLog) -> Chart | None:
    if not record.train and not record.valid:
        return None
    series = []
    if record.train:
        series.append(_series("train", record.train, style="faint" if record.valid else "line"))
    if record.valid:
        series.append(_series("validation", record.valid, style="marked"))
    return Chart("Learning curve", "training bytes", _unit(record), tuple(series), y_top=_top(record.train + record.valid))


def _unit(record: RunLog) -> str:
    return find_metric(record.loss_name).label if record.loss_name else "loss"


def _inside_chart(inside: Numbers) -> Chart:
    bits = [float(value) for value in inside]
    bars = Series("byte", list(range(1, len(bits) + 1)), bits, "bars")
    return Chart("Bits by position inside the patch", "byte of the patch", "bits per byte", (bars,))


def _overlaid(entries: Sequence[Entry], records: Sequence[RunLog], baselines: Sequence[Baseline], time: bool) -> Chart | None:
    """The validation curves of all runs (the training curve of a run without one) and the baselines as levels."""
    curves = [record.valid or record.train for record in records]
    points = [point for curve in curves for point in curve]
    if not points:
        return None
    unit, size = time_unit(max(point.seconds for point in points)) if time else ("", 1.0)
    named = zip(entries, curves, strict=True)
    series = tuple(_series(entry.name, curve, "marked", size if time else None) for entry, curve in named)
    levels = tuple(Level(baseline.name, baseline.bits_per_byte) for baseline in baselines)
    top = max([_top(points), *(1.05 * level.y for level in levels)])
    label = f"training time ({unit})" if time else "training bytes"
    return Chart(f"Learning curves by training {'time' if time else 'bytes'}", label, "bits per byte", series, levels, y_top=top)


def _series(name: str, points: Sequence[Point], style: Style, second: float | None = None) -> Series:
    """A curve by bytes, or by time in units of ``second`` seconds."""
    places = [float(point.bytes) if second is None else point.seconds / second for point in points]
    return Series(name, places, [point.loss for point in points], style)


def _top(points: Sequence[Point]) -> float:
    """Where to cut the y axis: the first steps of a run fall from 8 bits and would flatten all that follows."""
    return 1.6 * min(point.loss for point in points)


def time_unit(longest: float) -> tuple[str, float]:
    """The unit for an axis of times up to ``longest`` seconds, and its seconds."""
    return ("seconds", 1.0) if longest < 300 else ("minutes", 60.0) if longest < 18_000 else ("hours", 3600.0)


def write_charts(charts: Mapping[str, Chart | None], folder: Path) -> None:
    """Writes each chart that is there as NAME.svg, and as NAME.png where matplotlib is installed."""
    plot = importlib.util.find_spec("matplotlib") is not None
    for name, chart in charts.items():
        if chart:
            write_atomic(folder / f"{name}.svg", svg(chart).encode("utf-8"))
        if chart and plot:
            png(chart, folder / f"{name}.png")


def _lead(record: RunLog) -> str:
    kind = str(record.config.get("kind", "model")).replace("_", " ")
    if not (last := record.last):
        return f"{kind} · no measurement in its log"
    return f"{kind} · step {last.step:,} · {record.ended or 'not finished'}"


def _headline(record: RunLog, test: float | None, parameters: int | None) -> list[tuple[str, str, str]]:
    count = record.parameters if parameters is None else parameters
    values = [("Parameters", counted(count), "")] if count is not None else []
    if last := record.last:
        values += [("Trained on", counted(last.bytes, "B"), ""), ("Training time", duration(last.seconds), "")]
    if best := record.best:
        values.append(("Best validation", f"{best.loss:.3f}", _unit(record)))
    if test is not None:
        values.append(("Test", f"{test:.3f}", "bits per byte"))
    return values


def _samples(record: RunLog) -> list[str]:
    """The samples as cards; of many, some that are evenly spaced, with the first and the last."""
    samples = record.samples
    if len(samples) > MOST_SAMPLES:
        samples = tuple(samples[round(index * (len(samples) - 1) / (MOST_SAMPLES - 1))] for index in range(MOST_SAMPLES))
    scores = {point.step: f", {point.loss:.2f} bits per byte" for point in record.valid}
    return [text_card(f"Step {sample.step:,}{scores.get(sample.step, '')}", sample.text) for sample in samples]


def _configuration(record: RunLog, command: str | None) -> str:
    return section(
        "Configuration",
        text_card("The command that repeats this run", command) if command else "",
        folded_json("Model (config.json)", record.config),
        folded("Training (train.yaml)", record.settings),
        folded_json("Data (data.json)", record.data),
    )


def _standings(entries: Sequence[Entry], records: Sequence[RunLog], baselines: Sequence[Baseline]) -> str:
    rows: list[tuple[list[str], float, int | None]] = []
    for hue, (entry, record) in enumerate(zip(entries, records, strict=True)):
        count, last = record.parameters if entry.parameters is None else entry.parameters, record.last
        size = counted(count) if count is not None else "–"
        effort = [counted(last.bytes, "B"), duration(last.seconds)] if last else ["–", "–"]
        rows.append(([entry.name, f"{entry.test:.3f}", size, *effort, ""], entry.test, hue))
    for baseline in baselines:
        score = baseline.bits_per_byte
        rows.append(([baseline.name, f"{score:.3f}", "–", "–", "–", baseline.note], score, None))
    header = ["Model", "Bits per byte", "Parameters", "Training bytes", "Training time", "Note"]
    return ranking(header, sorted(rows, key=lambda row: row[1]))


def _caption(entry: Entry) -> str:
    return f"<h3>{escape(entry.name)}</h3>"
