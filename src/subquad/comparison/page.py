"""The page of a comparison: tables, verdicts, charts and every cell with the command that repeats it, in one file that needs no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.comparison.charts import cost_chart, inside_chart, learning_curves, window_chart
from subquad.comparison.results import Outcome, Published, Results
from subquad.comparison.tables import (
    COSTS,
    FIGURES,
    NONE,
    OTHERS,
    Place,
    Table,
    answer_note,
    answer_places,
    answer_table,
    cost_table,
    figure_table,
    length_table,
    main_note,
    main_table,
    main_title,
    places,
    seeds,
    verdict_lines,
    ways_note,
    ways_table,
)
from subquad.evaluation.charts import Chart
from subquad.evaluation.markup import escape
from subquad.evaluation.page import folded_json, grid, page, picture, section, table, text_card
from subquad.evaluation.report import write_charts
from subquad.system import write_atomic

_CURVES = "Validation while training, the first seed of each model. Of bits, the first steps, far above the rest, are cut off."
_INSIDE = "Windows side by side. A byte late in its patch is seen with the bytes before it."
_WINDOW = "Windows side by side: what a model makes of the bytes that it has already seen."
_PUBLISHED = "Figures as their papers print them, for the order of the models: data, sizes and budgets are other ones than here."


def write_page(results: Results, folder: Path) -> Path:
    """Writes ``report.html`` into ``folder``, which is made where missing, and each chart beside it; returns the path of the page."""
    curves = learning_curves(results)
    verdicts = verdict_lines(results)
    inside, window, costs = inside_chart(results), window_chart(results), cost_chart(results)
    charts: dict[str, Chart | None] = {name: chart for pairs in curves.values() for name, chart in pairs}
    charts |= {"inside_patch": inside, "by_position": window, "cost_by_length": costs}
    parts = [
        _about(results),
        section("Answers right", _marked(results, results.tasks, answer_places(results)), note=answer_note(results)),
        section(main_title(results), _marked(results, results.data, places(results)), note=main_note(results)),
        section(OTHERS, _plain(figure_table(results)), note=FIGURES if figure_table(results)[1] else ""),
        section("Verdicts", _listed(verdicts[1:]), note=verdicts[0] if verdicts else ""),
        section("Ways of scoring", _plain(ways_table(results)), note=ways_note(results) if ways_table(results)[1] else ""),
        section("Costs", _plain(cost_table(results)), note=COSTS),
        section("Learning curves", *(_pair(data, pairs) for data, pairs in curves.items()), note=_CURVES),
        _noted(inside, _INSIDE),
        _noted(window, _WINDOW),
        section("Cost by length", *_cost(results, costs)),
        section("Published figures", _published(results), note=_PUBLISHED),
        section("Probes", *_probes(results)),
        section("Cells", *_cells(results), note="Every run with the command that repeats it."),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_charts(charts, folder)
    path = folder / "report.html"
    write_atomic(path, page(results.title, _lead(results), parts).encode("utf-8"))
    return path


def _lead(results: Results) -> str:
    counts = [(len(results.models), "model"), (len(results.data), "text"), (seeds(results), "seed"), (len(results.costs), "cost curve")]
    return " · ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count)


def _about(results: Results) -> str:
    states = Counter(outcome.status for outcome in results.outcomes)
    cells = ", ".join(f"{states[state]} {state}" for state in ("done", "diverged", "failed", "waiting") if states[state])
    facts = [("Budget", results.budget), ("Machine", results.machine), ("Cells", cells)]
    return section(
        "About",
        "".join(f"<p>{escape(' '.join(part.split()))}</p>" for part in results.about.split("\n\n") if part.strip()),
        table((), [[escape(name), _text(value)] for name, value in facts if value]),
        _listed(results.notes),
        text_card("The command that repeats this", results.command) if results.command else "",
    )


def _marked(results: Results, texts: Sequence[str], found: Sequence[Sequence[Place]]) -> str:
    rows = [[escape(model), *map(_place, row)] for model, row in zip(results.models, found, strict=True)]
    return table(("Model", *texts), rows) if texts else ""


def _place(place: Place) -> str:
    text = f"<strong>{escape(place.text)}</strong> ★" if place.best else escape(place.text)
    return f'<span title="{escape(place.hint)}">{text}</span>' if place.hint else text


def _plain(rows: Table) -> str:
    return table(rows[0], [[escape(cell) for cell in row] for row in rows[1]])


def _listed(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _pair(data: str, pairs: Sequence[tuple[str, Chart]]) -> str:
    return f"<h3>{escape(data)}</h3>{''.join(picture(chart) for _, chart in pairs)}"


def _noted(chart: Chart | None, note: str) -> str:
    return section(chart.title, picture(chart), note=f"{note} {chart.note}") if chart else ""


def _cost(results: Results, chart: Chart | None) -> list[str]:
    notes = [f"{curve.name}: {curve.note}" for curve in results.costs if curve.note]
    figures = _plain(length_table(results))
    folded = f"<details><summary>The figures</summary>{figures}</details>" if figures else ""
    return [picture(chart) if chart else "", _listed(notes), folded]


def _published(results: Results) -> str:
    if not results.published:
        return ""
    words, ours = ("answers right", answer_table(results)) if results.tasks else (main_title(results).lower(), main_table(results))
    cards = [f"<h3>Here, {words}</h3>{_plain(ours)}"] if ours[1] else []
    return "".join([*cards, *map(_printed, results.published)])


def _printed(found: Published) -> str:
    digits = [max(map(_decimals, column), default=0) for column in zip(*found.rows.values(), strict=False)]
    rows = [
        [escape(name), *(NONE if value is None else f"{value:.{places}f}" for value, places in zip(values, digits, strict=False))]
        for name, values in found.rows.items()
    ]
    return f"<h3>{escape(found.caption)}</h3>{table(('', *found.columns), rows)}"


def _decimals(value: float | None) -> int:
    """As many as the paper prints, less the zeros at the end."""
    return 0 if value is None else len(f"{value:.6f}".rstrip("0").partition(".")[2])


def _probes(results: Results) -> list[str]:
    """A table for each probe and model, of the first seed that has answers to it on each text."""
    parts = []
    finals = [outcome for outcome in results.outcomes if outcome.role == "final"]
    for name in dict.fromkeys(name for outcome in finals for name in outcome.probes):
        cards = []
        for model in results.models:
            firsts: dict[str, Any] = {}
            for outcome in finals:
                if outcome.model == model and name in outcome.probes:
                    firsts.setdefault(outcome.data, outcome.probes[name])
            cards += [_answers(f"{model}, {data}", answers) for data, answers in firsts.items()]
        parts.append(f'<p class="source">{escape(name)}</p>{grid(cards)}')
    return parts


def _answers(caption: str, answers: Any) -> str:
    """Whatever a probe found, one mapping a row: columns are the keys of all rows."""
    found = answers if isinstance(answers, list) else [answers]
    rows = [row if isinstance(row, Mapping) else {"answer": row} for row in found]
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    cells = [[_answer(row.get(column)) for column in columns] for row in rows]
    return f"<h3>{escape(caption)}</h3>{table(columns, cells)}" if cells and columns else ""


def _answer(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, list | tuple):
        return "<br>".join(map(_answer, value))
    return f"<code>{escape(value)}</code>" if isinstance(value, str) else escape(f"{value:.4g}" if isinstance(value, float) else value)


def _cells(results: Results) -> list[str]:
    """The cells of each model, folded; a configuration that they all share is said once."""
    parts = []
    for model in dict.fromkeys([*results.models, *(outcome.model for outcome in results.outcomes)]):
        outcomes = [outcome for outcome in results.outcomes if outcome.model == model]
        if outcomes:
            shared = all(outcome.config == outcomes[0].config for outcome in outcomes)
            once = folded_json("Configuration of the model", outcomes[0].config) if shared else ""
            cells = "".join(_cell(outcome, config=not shared) for outcome in outcomes)
            count = f"{len(outcomes)} cell{'s' if len(outcomes) > 1 else ''}"
            parts.append(f"<details><summary>{escape(model)}: {count}</summary>{once}{cells}</details>")
    return parts


def _cell(outcome: Outcome, config: bool) -> str:
    bits = ", ".join(f"{value:.3f} {way}" for way, value in outcome.bits.items()) + (f" ({outcome.unit})" if outcome.bits else "")
    right = "" if outcome.accuracy is None else f"{outcome.accuracy:.1%} of the answers right"
    status = f"diverged at step {outcome.step}" if outcome.status == "diverged" else outcome.status
    role = "chooses the learning rate" if outcome.role == "rate" else ""
    words = [outcome.data, f"seed {outcome.seed}", f"learning rate {outcome.lr:g}", role, status, right, bits]
    return (
        f"<h3>{escape(' · '.join(word for word in words if word))}</h3>"
        + "".join(f"<pre>{escape(text)}</pre>" for text in (outcome.error, outcome.command) if text)
        + (folded_json("Configuration", outcome.config) if config else "")
    )


def _text(value: str) -> str:
    return f'<span class="text">{escape(value)}</span>'
