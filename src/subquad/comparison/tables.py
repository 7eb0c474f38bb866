"""The tables and verdicts of a comparison, and the same as CSV, Markdown and lines for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import mean

from subquad.comparison.results import Outcome, Results, verdict
from subquad.format import NONE, capital, count, duration, visible
from subquad.objectives import find_metric
from subquad.report import tables as report
from subquad.sections import Table

BEST = "On the test part; the best of each column is marked."
SPREAD = "Mean ± half-range over seeds."
RULE = "Only gaps wider than the range over seeds, of either model, count as ahead or behind."
ONE_SEED = "With one seed there are no verdicts, only numbers: another seed may change a figure by more than the gap."
COSTS = "Training bytes and time are means over a model's runs; memory and serial steps are measured on the trained model."
_WINDOWS = {"basic": "without overlap", "sliding": "with half a window of overlap", "strided": "in two passes half a patch apart"}
_MOST_HINT = 120
_NOT_SCALAR = ("loss", "metrics", "inside", "by_position", "curve", "accuracies", "probes", "sample", "passage", "config")


@dataclass(frozen=True)
class _Measure:
    """What a table shows of a run: its value, None where it has none, and values over seeds in words; less is better, or more."""

    value: Callable[[Outcome], float | None]
    words: Callable[[Sequence[float]], str]
    more: bool = False


def tables(results: Results) -> list[Table]:
    """Every table that has rows, in their order."""
    others = (metric_table(results), window_table(results), cost_table(results), length_table(results))
    return [*score_tables(results), *(table for table in others if table.rows)]


def score_tables(results: Results) -> list[Table]:
    """The tables that verdicts are of."""
    return [table for table in (accuracy_table(results), main_table(results)) if table.rows]


def accuracy_table(results: Results) -> Table:
    """Models by data that ask for answers: the share of right ones with the spread over seeds. No rows without any."""
    measure = _Measure(lambda outcome: outcome.accuracy, _percent, more=True)
    return _scores(results, "Accuracy", results.tasks, measure, f"More is better. {BEST}")


def main_table(results: Results) -> Table:
    """Models, and baselines, by data: the loss on the test part with the spread over seeds, or what became of the runs."""
    units = _units(results)
    one_unit = len(set(units.values())) == 1
    title = capital(next(iter(units.values()))) if one_unit else "Loss"
    parts = "" if one_unit else f" ({', '.join(f'{data} in {unit}' for data, unit in units.items())})"
    measure = _Measure(lambda outcome: outcome.loss.get("basic"), _loss)
    return _scores(results, title, results.data, measure, f"Less is better{parts}. {BEST}")


def metric_table(results: Results) -> Table:
    """Models by whatever else is known of the test part, a column for each text and metric. No rows without any."""
    columns = [
        (data, name)
        for data in results.data
        for name in dict.fromkeys(name for model in results.models for outcome in results.finals(model, data) for name in outcome.metrics)
    ]
    rows = []
    for model in results.models if columns else ():
        values = [[run.metrics[name] for run in results.finals(model, data) if name in run.metrics] for data, name in columns]
        rows.append([model, *(f"{mean(column):.3f}" if column else NONE for column in values)])
    header = ["Model", *(f"{data}: {find_metric(name).label}" for data, name in columns)]
    return Table("Other metrics", header, rows, "On the test part, means over seeds.")


def window_table(results: Results) -> Table:
    """Models by scoring windows: the mean over the texts that every scored model has. No rows where there is one kind only."""
    ways = list(dict.fromkeys(way for outcome in results.outcomes if outcome.role == "final" for way in outcome.loss))
    texts = shared_texts(results)
    rows = []
    for model in results.models if len(ways) > 1 and texts else ():
        bits = [[results.losses(model, data, way) for data in texts] for way in ways]
        rows.append([model, *map(_mean_over_texts, bits)])
    over = f"Means over {', '.join(texts)}." if len(texts) > 1 else f"On {''.join(texts)}."
    words = "; ".join(f"{way}: {_WINDOWS[way]}" for way in ways if way in _WINDOWS)
    return Table("Scoring windows", ["Model", *ways], rows, f"{over} {capital(words)}.")


def cost_table(results: Results) -> Table:
    """What each model costs; columns without values are left out."""

    def column(name: str, words: Callable[[float], str]) -> Callable[[list[Outcome]], str]:
        return lambda runs: _mean_of(runs, name, words)

    columns: dict[str, Callable[[list[Outcome]], str]] = {
        "Parameters": column("parameters", count),
        "Forward FLOPs per byte": column("flops_per_byte", count),
        "Training FLOPs per byte": column("training_flops_per_byte", count),
        "Training bytes": column("training_bytes", lambda value: count(value, "B")),
        "Training time": column("training_seconds", duration),
        "Decoding state": column("state_bytes", lambda value: count(value, "B")),
        "Peak memory of a training step": column("peak_bytes", lambda value: count(value, "B")),
        "Reading, ids per second": column("ids_per_second", count),
        "Serial steps per byte": column("serial_steps", lambda value: f"{value:.3g}"),
        "Learning rate": lambda runs: ", ".join(dict.fromkeys(f"{run.lr:g}" for run in runs)) or NONE,
    }
    finals = [outcome for outcome in results.outcomes if outcome.role == "final"]
    finals = [outcome for outcome in finals if outcome.flops_per_byte is not None] or finals  # fine-tuning is not part of a model's cost
    runs = {model: [outcome for outcome in finals if outcome.model == model] for model in results.models}
    runs = {model: outcomes for model, outcomes in runs.items() if outcomes}
    shown = {name: words for name, words in columns.items() if any(words(outcomes) != NONE for outcomes in runs.values())}
    rows = [[model, *(words(outcomes) for words in shown.values())] for model, outcomes in runs.items()]
    return Table("Costs", ["Model", *shown], rows, COSTS)


def length_table(results: Results) -> Table:
    """FLOPs per byte of each cost curve, a row for each length."""
    curves = {curve.name: dict(zip(curve.lengths, curve.flops, strict=True)) for curve in results.costs if curve.lengths}
    lengths = sorted({length for flops in curves.values() for length in flops})
    rows = [[f"{length:,}", *(count(flops.get(length)) for flops in curves.values())] for length in lengths]
    return Table("Cost by length", ["Length in bytes", *curves], rows, "Forward FLOPs per byte.")


def verdict_lines(results: Results) -> list[str]:
    """The reference against each other model in words, the rule first; empty until two models have figures on a text."""
    subject = results.reference
    others = [model for model in results.models if model != subject]
    if not any(results.losses(subject, data) and results.losses(other, data) for other in others for data in results.data):
        return []
    if seeds(results) < 2:
        return [ONE_SEED, *(line for other in others if (line := _gaps(results, subject, other)))]
    return [RULE, *(_standing(results, subject, other) for other in others)]


def seeds(results: Results) -> int:
    """How many seeds the main table has."""
    return len({outcome.seed for outcome in results.outcomes if outcome.role == "final"})


def shared_texts(results: Results) -> list[str]:
    """The texts on which every model has a figure, of the models that have any."""
    scored = [model for model in results.models if any(results.losses(model, data) for data in results.data)]
    return [data for data in results.data if scored and all(results.losses(model, data) for model in scored)]


def csv_text(results: Results) -> str:
    """Every scalar of every run, one line a run."""
    ways = list(dict.fromkeys(way for outcome in results.outcomes for way in outcome.loss))
    metrics = list(dict.fromkeys(name for outcome in results.outcomes for name in outcome.metrics))
    scalars = [field.name for field in fields(Outcome) if field.name not in _NOT_SCALAR]
    rows = [
        [
            *(getattr(outcome, name) for name in scalars),
            *(outcome.loss.get(way) for way in ways),
            *(outcome.metrics.get(name) for name in metrics),
        ]
        for outcome in results.outcomes
    ]
    return report.csv_text([*scalars, *(f"loss_{way}" for way in ways), *metrics], rows)


def markdown(results: Results) -> str:
    """Title, tables and verdicts for a page of the documentation; the best of each column is bold."""
    verdicts = "\n".join(f"- {report.escape_markdown(line)}" for line in verdict_lines(results))
    parts = [f"# {report.escape_markdown(results.title)}"]
    for table in tables(results):
        parts += [f"## {table.title}", report.markdown(table), report.escape_markdown(table.note)]
        parts += [verdicts] if table.title == main_table(results).title else []
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(results: Results) -> str:
    """Title, tables and verdicts in aligned columns; a star marks the best of each column."""
    verdicts = "\n".join(visible(line, "") for line in verdict_lines(results))
    parts = [visible(results.title, "")]
    for table in tables(results):
        parts += [report.text(table), *([verdicts] if table.title == main_table(results).title else [])]
    return "\n\n".join(part for part in parts if part)


def _units(results: Results) -> dict[str, str]:
    """The unit of the loss on each text."""
    return {outcome.data: outcome.unit for outcome in results.outcomes if outcome.role == "final"}


def _scores(results: Results, title: str, texts: Sequence[str], measure: _Measure, note: str) -> Table:
    """Models, and the baselines of a loss, by texts."""
    runs = [[results.finals(model, data) for data in texts] for model in results.models]
    rows = [[model, *(_words(cell, measure) for cell in row)] for model, row in zip(results.models, runs, strict=True)]
    means = [[_rounded_mean(cell, measure) for cell in row] for row in runs]
    for label in dict.fromkeys((baseline.name, baseline.note) for baseline in results.baselines if not measure.more):
        levels = {baseline.data: baseline.bits_per_byte for baseline in results.baselines if (baseline.name, baseline.note) == label}
        rows.append([f"{label[0]} ({label[1]})" if label[1] else label[0], *(_loss([levels[d]]) if d in levels else NONE for d in texts)])
        means.append([round(levels[data], 3) if data in levels else None for data in texts])
    best = set()
    for j in range(len(texts)):
        values = [value for row in means if (value := row[j]) is not None]
        if len(values) > 1:
            best |= {(i, j + 1) for i, row in enumerate(means) if row[j] == (max if measure.more else min)(values)}
    hints = {(i, j + 1): hint for i, row in enumerate(runs) for j, cell in enumerate(row) if (hint := _error(cell))}
    return Table(
        title, ["Model", *texts], rows if texts else [], f"{note} {SPREAD}" if seeds(results) > 1 else note, frozenset(best), hints
    )


def _values(runs: Sequence[Outcome], measure: _Measure) -> list[float]:
    return [value for run in runs if run.status == "done" and (value := measure.value(run)) is not None]


def _rounded_mean(runs: Sequence[Outcome], measure: _Measure) -> float | None:
    values = _values(runs, measure)
    return round(mean(values), 3) if values else None


def _words(runs: Sequence[Outcome], measure: _Measure) -> str:
    """The mean over seeds, or what became of the runs."""
    values = _values(runs, measure)
    if values:
        others = [(status, sum(run.status == status for run in runs)) for status in ("diverged", "failed", "waiting")]
        words = ", ".join(f"{number} of {len(runs)} {status}" for status, number in others if number)
        return measure.words(values) + (f" ({words})" if words else "")
    steps = [str(run.step) for run in runs if run.status == "diverged"]
    if steps:
        return f"diverged at step{'s' if len(steps) > 1 else ''} {', '.join(steps)}"
    return "failed" if any(run.status == "failed" for run in runs) else NONE


def _error(runs: Sequence[Outcome]) -> str:
    words = next((" ".join(run.error.split()) for run in runs if run.status == "failed"), "")
    return words if len(words) <= _MOST_HINT else words[: _MOST_HINT - 1] + "…"


def _loss(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else "")


def _percent(shares: Sequence[float]) -> str:
    spread = f" ± {50 * (max(shares) - min(shares)):.1f}" if len(shares) > 1 else ""
    return f"{100 * mean(shares):.1f}{spread} %"


def _mean_over_texts(bits: list[list[float]]) -> str:
    """The figure over texts, each a list over seeds: with its spread where there is one text."""
    if not all(bits):
        return NONE
    return _loss(bits[0]) if len(bits) == 1 else f"{mean(map(mean, bits)):.3f}"


def _mean_of(runs: list[Outcome], name: str, words: Callable[[float], str]) -> str:
    """The mean of a figure over the runs that are done, or over any that know it."""
    for among in ([run for run in runs if run.status == "done"], runs):
        values = [float(value) for run in among if (value := getattr(run, name)) is not None]
        if values:
            return words(mean(values))
    return NONE


def _standing(results: Results, subject: str, other: str) -> str:
    """``megabyte is ahead of transformer on 4 of 5 texts, behind on 1 (code)``; with one seed of either there is no verdict on a text."""
    texts: dict[str, list[str]] = {"ahead": [], "behind": [], "even": [], "unknown": []}
    for data in results.data:
        comparable = min(len(results.losses(subject, data)), len(results.losses(other, data))) > 1
        texts[verdict(results, subject, other, data) if comparable else "unknown"].append(data)
    total = len(results.data)
    line = f"{subject} is ahead of {other} on {len(texts['ahead'])} of {total} text{'s' if total > 1 else ''}"
    for kind, words in (("behind", "behind on"), ("even", "even on"), ("unknown", "no verdict on")):
        line += f", {words} {len(texts[kind])} ({', '.join(texts[kind])})" if texts[kind] else ""
    return f"{line}."


def _gaps(results: Results, subject: str, other: str) -> str:
    """The difference on each text that both have, empty without one."""
    losses = [(data, results.losses(subject, data), results.losses(other, data)) for data in results.data if data not in results.tasks]
    units, gaps = _units(results), dict[str, list[str]]()
    for data, mine, theirs in losses:
        if mine and theirs:
            gaps.setdefault(units[data], []).append(f"{data} {mean(mine) - mean(theirs):+.3f}")
    shares = [(data, results.accuracy(subject, data), results.accuracy(other, data)) for data in results.tasks]
    points = [f"{data} {100 * (mean(mine) - mean(theirs)):+.1f}" for data, mine, theirs in shares if mine and theirs]
    named = (*gaps.items(), ("accuracy in points", points))
    words = "; ".join(f"{name}: {', '.join(differences)}" for name, differences in named if differences)
    return f"{subject} minus {other}, {words}." if words else ""
