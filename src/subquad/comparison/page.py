"""The page of a comparison: tables, verdicts, figures and every run with the command that repeats it, in one self-contained file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from subquad.comparison.charts import cost_chart, inside_chart, learning_curves, window_chart
from subquad.comparison.results import Outcome, Published, Results
from subquad.comparison.tables import accuracy_table, length_table, main_table, score_tables, seeds, tables, verdict_lines
from subquad.format import NONE
from subquad.report import pages
from subquad.report.figures import write_figures
from subquad.sections import Passage, Table

_POSITIONS = {
    "inside_patch": "Basic windows. A byte late in its patch is predicted from the bytes before it.",
    "by_position": "Basic windows: what a model makes of the bytes that it has already seen.",
}


def write_page(results: Results, folder: Path) -> Path:
    """Writes ``report.html`` into ``folder``, which is made where missing, and each figure beside it; returns the path of the page."""
    curves = learning_curves(results)
    others = {"inside_patch": inside_chart(results), "by_position": window_chart(results), "cost_by_length": cost_chart(results)}
    charts = curves | {name: chart for name, chart in others.items() if chart}
    folder.mkdir(parents=True, exist_ok=True)
    passages, lengths = _passages(results), length_table(results)
    values = {
        "title": results.title,
        "lead": _lead(results),
        "results": results,
        "about": [" ".join(part.split()) for part in results.about.split("\n\n") if part.strip()],
        "facts": _facts(results),
        "tables": [table for table in tables(results) if table != lengths],
        "scored": len(score_tables(results)),
        "verdicts": verdict_lines(results),
        "charts": charts,
        "pictures": write_figures(charts, folder),
        "curves": list(curves),
        "positions": list(_POSITIONS.items()),
        "cost_notes": [f"{curve.name}: {curve.note}" for curve in results.costs if curve.note],
        "lengths": lengths,
        "published": _published(results),
        "samples": [(f"{outcome.model}, {outcome.data}", outcome.sample) for outcome in _firsts(results) if outcome.sample],
        "passages": passages,
        "patched": any(passage.patch_size > 1 for passage in passages),
        "probes": _probes(results),
        "runs": _runs(results),
    }
    return pages.write_page(folder / "report.html", "comparison.html", values)


def _lead(results: Results) -> str:
    counts = [(len(results.models), "model"), (len(results.data), "text"), (seeds(results), "seed"), (len(results.costs), "cost curve")]
    return " · ".join(f"{number} {name}{'s' if number > 1 else ''}" for number, name in counts if number)


def _facts(results: Results) -> list[tuple[str, str]]:
    states = Counter(outcome.status for outcome in results.outcomes)
    runs = ", ".join(f"{states[state]} {state}" for state in ("done", "diverged", "failed", "waiting") if states[state])
    return [(name, value) for name, value in (("Budget", results.budget), ("Machine", results.machine), ("Runs", runs)) if value]


def _firsts(results: Results) -> list[Outcome]:
    """The first final run of each model on each text that is done."""
    places = [(model, data) for data in results.data for model in results.models]
    done = [[outcome for outcome in results.finals(*place) if outcome.status == "done"] for place in places]
    return [outcomes[0] for outcomes in done if outcomes]


def _passages(results: Results) -> list[Passage]:
    return [
        replace(outcome.passage, title=f"{outcome.model}, {outcome.data}") for outcome in _firsts(results) if outcome.passage is not None
    ]


def _published(results: Results) -> list[Table]:
    """Ours for the same data, then the tables of the papers; none without these."""
    if not results.published:
        return []
    ours = accuracy_table(results) if results.tasks else main_table(results)
    measured = [Table(f"Here: {ours.title[:1].lower()}{ours.title[1:]}", ours.header, ours.rows)] if ours.rows else []
    return [*measured, *map(_published_table, results.published)]


def _published_table(published: Published) -> Table:
    digits = [max(map(_decimals, column), default=0) for column in zip(*published.rows.values(), strict=False)]
    rows = [
        [name, *(NONE if value is None else f"{value:.{places}f}" for value, places in zip(values, digits, strict=False))]
        for name, values in published.rows.items()
    ]
    return Table(published.caption, ["", *published.columns], rows)


def _decimals(value: float | None) -> int:
    """The number of decimals that the paper prints, without zeros at the end."""
    return 0 if value is None else len(f"{value:.6f}".rstrip("0").partition(".")[2])


def _probes(results: Results) -> list[Table]:
    """A table for each probe, model and text that has answers, of the first seed."""
    names = dict.fromkeys(name for outcome in _firsts(results) for name in outcome.probes)
    return [
        table
        for name in names
        for outcome in _firsts(results)
        if (table := _answers(f"{name}: {outcome.model}, {outcome.data}", outcome.probes.get(name))).rows
    ]


def _answers(title: str, answers: Any) -> Table:
    """Whatever a probe gave, one mapping a row: columns are the keys of all rows."""
    listed = answers if isinstance(answers, list) else [] if answers is None else [answers]
    rows = [row if isinstance(row, Mapping) else {"answer": row} for row in listed]
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    return Table(title, columns, [[_answer(row.get(column)) for column in columns] for row in rows], wrap=True)


def _answer(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, list | tuple):
        return "\n".join(map(_answer, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _runs(results: Results) -> list[tuple[str, Any, list[tuple[str, Outcome]]]]:
    """The runs of each model, each with a line on it; and the configuration where they share one."""
    runs = []
    for model in dict.fromkeys([*results.models, *(outcome.model for outcome in results.outcomes)]):
        outcomes = [outcome for outcome in results.outcomes if outcome.model == model]
        shared = outcomes[0].config if outcomes and all(outcome.config == outcomes[0].config for outcome in outcomes) else None
        if outcomes:
            runs.append((model, shared, [(_run_line(outcome), outcome) for outcome in outcomes]))
    return runs


def _run_line(outcome: Outcome) -> str:
    words: Sequence[str] = (
        outcome.data,
        f"seed {outcome.seed}",
        f"learning rate {outcome.lr:g}",
        "chooses the learning rate" if outcome.role == "rate" else "",
        f"diverged at step {outcome.step}" if outcome.status == "diverged" else outcome.status,
        "" if outcome.accuracy is None else f"accuracy {outcome.accuracy:.1%}",
        ", ".join(f"{value:.3f} {way}" for way, value in outcome.loss.items()) + (f" ({outcome.unit})" if outcome.loss else ""),
    )
    return " · ".join(word for word in words if word)
