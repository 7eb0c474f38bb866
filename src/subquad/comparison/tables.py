"""The tables of a comparison as rows of words, and the same as CSV, Markdown and lines for a terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import mean

from subquad.comparison.results import Outcome, Results, verdict
from subquad.evaluation.markup import visible
from subquad.evaluation.page import counted, duration

Table = tuple[list[str], list[list[str]]]

NONE = "–"
BITS = "On the test part, fewer is better; the best of each column is marked."
RIGHT = "Answers of the test part that are right, the likeliest taken at each; more is better, the best of each column is marked."
FIGURES = "On the test part, means over seeds: of labels as GLUE takes them, of text the share of hidden ids that an encoder guesses right."
SPREAD = "Mean over seeds ± half of the largest less the smallest."
RULE = "Only gaps wider than the spread over seeds (the largest less the smallest, of either model) count as ahead or behind."
ONE_SEED = "With one seed no verdict is given, only the numbers: a gap may be no wider than the next seed would move it."
OTHERS = "Other figures"
COSTS = "Training bytes and time are means over a model's cells; memory and serial steps are measured on the trained model."
_WAYS = {"basic": "windows side by side", "sliding": "windows that overlap by half", "strided": "two passes half a patch apart"}
_MOST_HINT = 120
_NO_SCALARS = ("bits", "metrics", "inside", "by_position", "curve", "accuracies", "probes", "sample", "passage", "config")


@dataclass(frozen=True)
class Figure:
    """What a table shows of a cell: its value, None where it has none, the value in words, and whether the largest is the best."""

    value: Callable[[Outcome], float | None]
    words: Callable[[Sequence[float]], str]
    digits: int
    largest: bool = False


@dataclass(frozen=True)
class Place:
    """One place of the main table: what it says, whether its mean is the best of its column, and the error where a cell failed."""

    text: str
    best: bool = False
    hint: str = ""


def places(results: Results) -> list[list[Place]]:
    """The main table: a row for each model, a place for each text."""
    return _places(results, results.data, _BITS_FIGURE)


def answer_places(results: Results) -> list[list[Place]]:
    """The table of right answers: a row for each model, a place for each task or table of labels."""
    return _places(results, results.tasks, _RIGHT_FIGURE)


def answer_table(results: Results) -> Table:
    """Models by tasks and labels: the share of right answers with the spread over seeds. No rows without any."""
    if not results.tasks:
        return [], []
    named = zip(results.models, answer_places(results), strict=True)
    return ["Model", *results.tasks], [[model, *(place.text for place in row)] for model, row in named]


def answer_note(results: Results) -> str:
    """How to read the table of right answers."""
    return f"{RIGHT} {SPREAD}" if seeds(results) > 1 else RIGHT


def main_table(results: Results) -> Table:
    """Models by texts: test bits per byte with the spread over seeds, or what became of the cells."""
    named = zip(results.models, places(results), strict=True)
    return ["Model", *results.data], [[model, *(place.text for place in row)] for model, row in named]


def main_note(results: Results) -> str:
    """How to read the main table."""
    others = [f"{data} in {unit}" for data, unit in _units(results).items() if unit.lower() != main_title(results).lower()]
    words = [f"{_capital(', '.join(others))}."] if others else []
    return " ".join([BITS, *words, *([SPREAD] if seeds(results) > 1 else [])])


def main_title(results: Results) -> str:
    """What the main table is of."""
    units = list(dict.fromkeys(_units(results).values()))
    return "Bits" if len(units) > 1 else _capital(units[0] if units else "bits per byte")


def _units(results: Results) -> dict[str, str]:
    """The unit of the loss on each text."""
    return {outcome.data: outcome.unit for outcome in results.outcomes if outcome.role == "final"}


def figure_table(results: Results) -> Table:
    """Models by whatever else is known of the test part, a column for each text and figure. No rows without any."""
    columns = [
        (data, name)
        for data in results.data
        for name in dict.fromkeys(name for model in results.models for outcome in results.finals(model, data) for name in outcome.metrics)
    ]
    rows = []
    for model in results.models if columns else ():
        found = [[cell.metrics[name] for cell in results.finals(model, data) if name in cell.metrics] for data, name in columns]
        rows.append([model, *(f"{mean(values):.3f}" if values else NONE for values in found)])
    return (["Model", *(f"{data}: {name.replace('_', ' ')}" for data, name in columns)], rows) if rows else ([], [])


def ways_table(results: Results) -> Table:
    """Models by ways of scoring: the mean over the texts that every scored model has. No rows where there is one way only."""
    ways, texts = ways_of(results), shared_texts(results)
    if len(ways) < 2 or not texts:
        return [], []
    rows = []
    for model in results.models:
        bits = [[results.bits(model, data, way) for data in texts] for way in ways]
        rows.append([model, *map(_mean_text, bits)])
    return ["Model", *ways], rows


def ways_note(results: Results) -> str:
    """Over which texts the means are, and what the ways are."""
    texts = shared_texts(results)
    over = f"On {texts[0]}." if len(texts) == 1 else f"Means over {', '.join(texts)}."
    words = [f"{way}: {_WAYS[way]}" for way in ways_of(results) if way in _WAYS]
    return f"{over} {_capital('; '.join(words))}." if words else over


def cost_table(results: Results) -> Table:
    """What each model costs; columns of which nothing is known are left out."""
    columns: list[tuple[str, Callable[[list[Outcome]], str]]] = [
        ("Parameters", lambda cells: _figure(cells, "parameters", counted)),
        ("Forward FLOPs a byte", lambda cells: _figure(cells, "flops_per_byte", counted)),
        ("Training FLOPs a byte", lambda cells: _figure(cells, "training_flops_per_byte", counted)),
        ("Training bytes", lambda cells: _figure(cells, "training_bytes", lambda value: counted(value, "B"))),
        ("Training time", lambda cells: _figure(cells, "training_seconds", duration)),
        ("Decoding state", lambda cells: _figure(cells, "state_bytes", lambda value: counted(value, "B"))),
        ("Peak memory of a training step", lambda cells: _figure(cells, "peak_bytes", lambda value: counted(value, "B"))),
        ("Reading, ids a second", lambda cells: _figure(cells, "ids_per_second", counted)),
        ("Serial steps a byte", lambda cells: _figure(cells, "serial_steps", lambda value: f"{value:.3g}")),
        ("Learning rate", lambda cells: ", ".join(dict.fromkeys(f"{cell.lr:g}" for cell in cells)) or NONE),
    ]
    finals = [outcome for outcome in results.outcomes if outcome.role == "final"]
    finals = [outcome for outcome in finals if outcome.flops_per_byte is not None] or finals  # fine-tuning is no part of what a model costs
    cells = {model: [outcome for outcome in finals if outcome.model == model] for model in results.models}
    known = {model: found for model, found in cells.items() if found}
    shown = [(name, value) for name, value in columns if any(value(found) != NONE for found in known.values())]
    return ["Model", *(name for name, _ in shown)], [[model, *(value(found) for _, value in shown)] for model, found in known.items()]


def length_table(results: Results) -> Table:
    """FLOPs per byte of each cost curve, a row for each length."""
    curves = {curve.name: dict(zip(curve.lengths, curve.flops, strict=True)) for curve in results.costs if curve.lengths}
    lengths = sorted({length for at in curves.values() for length in at})
    rows = [[f"{length:,}", *(counted(at[length]) if length in at else NONE for at in curves.values())] for length in lengths]
    return ["Length in bytes", *curves], rows


def verdict_lines(results: Results) -> list[str]:
    """The reference against each other model in words, the rule first; nothing before two models have figures on a text."""
    subject = results.reference
    others = [model for model in results.models if model != subject]
    if not any(results.bits(subject, data) and results.bits(other, data) for other in others for data in results.data):
        return []
    if seeds(results) < 2:
        return [ONE_SEED, *(line for other in others if (line := _gaps(results, subject, other)))]
    return [RULE, *(_standing(results, subject, other) for other in others)]


def seeds(results: Results) -> int:
    """How many seeds the main table has."""
    return len({outcome.seed for outcome in results.outcomes if outcome.role == "final"})


def ways_of(results: Results) -> list[str]:
    """The ways of scoring that any cell has, in their order."""
    return list(dict.fromkeys(way for outcome in results.outcomes if outcome.role == "final" for way in outcome.bits))


def shared_texts(results: Results) -> list[str]:
    """The texts on which every model has a figure, of the models that have any."""
    scored = [model for model in results.models if any(results.bits(model, data) for data in results.data)]
    return [data for data in results.data if scored and all(results.bits(model, data) for model in scored)]


def csv_text(results: Results) -> str:
    """Every scalar of every cell, one line a cell, as RFC 4180 has it."""
    ways = list(dict.fromkeys(way for outcome in results.outcomes for way in outcome.bits))
    figures = list(dict.fromkeys(name for outcome in results.outcomes for name in outcome.metrics))
    scalars = [field.name for field in fields(Outcome) if field.name not in _NO_SCALARS]
    at = scalars.index("error") + 1
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*scalars[:at], *(f"bits_{way}" for way in ways), *figures, *scalars[at:]])
    for outcome in results.outcomes:
        before, after = [[getattr(outcome, name) for name in part] for part in (scalars[:at], scalars[at:])]
        named = [*(outcome.bits.get(way) for way in ways), *(outcome.metrics.get(name) for name in figures)]
        writer.writerow([*before, *named, *after])
    return buffer.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def markdown(results: Results) -> str:
    """Title, tables and verdicts for a page of the documentation; the best of each column is bold."""
    parts = [f"# {_marked_down(results.title)}"]
    for title, (header, rows), note, best in _sections(results):
        shown = [[f"**{cell}**" if (i, j) in best else cell for j, cell in enumerate(map(_marked_down, row))] for i, row in enumerate(rows)]
        lines = [list(map(_marked_down, header)), ["---"] + ["---:"] * (len(header) - 1), *shown]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts += [f"## {title}", table, _marked_down(note)]
        if title == main_title(results) and (verdicts := verdict_lines(results)):
            parts.append("\n".join(f"- {_marked_down(line)}" for line in verdicts))
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(results: Results) -> str:
    """Title, tables and verdicts in aligned columns, a table on its side where that is narrower; a star marks the best of each column."""
    parts = [visible(results.title, "")]
    for title, (header, rows), note, best in _sections(results):
        starred = {j for _, j in best}
        shown = [[cell + (" *" if (i, j) in best else "  " * (j in starred)) for j, cell in enumerate(row)] for i, row in enumerate(rows)]
        lines = _aligned([[cell + "  " * (j in starred) for j, cell in enumerate(header)], *shown])
        lines = lines if best else min(lines, _aligned(list(zip(header, *rows, strict=True))), key=lambda found: max(map(len, found)))
        parts.append("\n".join(line for line in (title, *lines, visible(note, "")) if line))
        if title == main_title(results) and (verdicts := verdict_lines(results)):
            parts.append("\n".join(visible(line, "") for line in verdicts))
    return "\n\n".join(parts)


def _sections(results: Results) -> list[tuple[str, Table, str, set[tuple[int, int]]]]:
    """Title, table, note and which places are marked, of each table that has rows."""
    best, right = (
        {(i, j + 1) for i, row in enumerate(rows) for j, place in enumerate(row) if place.best}
        for rows in (places(results), answer_places(results))
    )
    found: list[tuple[str, Table, str, set[tuple[int, int]]]] = [
        ("Answers right", answer_table(results), answer_note(results), right),
        (main_title(results), main_table(results), main_note(results), best),
        (OTHERS, figure_table(results), FIGURES, set()),
        ("Ways of scoring", ways_table(results), ways_note(results) if ways_table(results)[1] else "", set()),
        ("Costs", cost_table(results), COSTS, set()),
        ("Cost by length", length_table(results), "", set()),
    ]
    return [section for section in found if section[1][1]]


def _places(results: Results, texts: Sequence[str], figure: Figure) -> list[list[Place]]:
    columns = [_column(results, data, figure) for data in texts]
    return [[column[row] for column in columns] for row in range(len(results.models))]


def _column(results: Results, data: str, figure: Figure) -> list[Place]:
    means = [_rounded_mean(results.finals(model, data), figure) for model in results.models]
    known = [value for value in means if value is not None]
    best = None if len(known) < 2 else max(known) if figure.largest else min(known)
    rows = zip(results.models, means, strict=True)
    return [_place(results.finals(model, data), value is not None and value == best, figure) for model, value in rows]


def _values(cells: Sequence[Outcome], figure: Figure) -> list[float]:
    return [value for cell in cells if cell.status == "done" and (value := figure.value(cell)) is not None]


def _rounded_mean(cells: Sequence[Outcome], figure: Figure) -> float | None:
    values = _values(cells, figure)
    return round(mean(values), figure.digits) if values else None


def _place(cells: Sequence[Outcome], best: bool, figure: Figure) -> Place:
    values = _values(cells, figure)
    hint = next((_cut(cell.error) for cell in cells if cell.status == "failed"), "")
    if values:
        lost = [(status, sum(cell.status == status for cell in cells)) for status in ("diverged", "failed", "waiting")]
        words = ", ".join(f"{count} of {len(cells)} {status}" for status, count in lost if count)
        return Place(figure.words(values) + (f" ({words})" if words else ""), best, hint)
    steps = [str(cell.step) for cell in cells if cell.status == "diverged"]
    if steps:
        return Place(f"diverged at step{'s' if len(steps) > 1 else ''} {', '.join(steps)}", False, hint)
    return Place("failed", False, hint) if any(cell.status == "failed" for cell in cells) else Place(NONE)


def _scored(bits: Sequence[float]) -> str:
    return f"{mean(bits):.3f} ± {(max(bits) - min(bits)) / 2:.3f}" if len(bits) > 1 else f"{bits[0]:.3f}"


def _percent(shares: Sequence[float]) -> str:
    spread = f" ± {50 * (max(shares) - min(shares)):.1f}" if len(shares) > 1 else ""
    return f"{100 * mean(shares):.1f}{spread} %"


_BITS_FIGURE = Figure(lambda cell: cell.bits.get("basic"), _scored, 3)
_RIGHT_FIGURE = Figure(lambda cell: cell.accuracy, _percent, 3, largest=True)


def _mean_text(bits: list[list[float]]) -> str:
    """The figure over texts, each a list over seeds: with its spread where there is one text."""
    if not all(bits):
        return NONE
    return _scored(bits[0]) if len(bits) == 1 else f"{mean(map(mean, bits)):.3f}"


def _figure(cells: list[Outcome], name: str, words: Callable[[float], str]) -> str:
    """The mean of a figure over the cells that are done, or over any that know it."""
    for among in ([cell for cell in cells if cell.status == "done"], cells):
        values = [float(value) for cell in among if (value := getattr(cell, name)) is not None]
        if values:
            return words(mean(values))
    return NONE


def _standing(results: Results, subject: str, other: str) -> str:
    """``megabyte is ahead of transformer on 4 of 5 texts, behind on 1 (code)``; a text with one seed of either is not judged."""
    found: dict[str, list[str]] = {"ahead": [], "behind": [], "even": [], "unknown": []}
    for data in results.data:
        judged = min(len(results.bits(subject, data)), len(results.bits(other, data))) > 1
        found[verdict(results, subject, other, data) if judged else "unknown"].append(data)
    count = len(results.data)
    line = f"{subject} is ahead of {other} on {len(found['ahead'])} of {count} text{'s' if count > 1 else ''}"
    for kind, words in (("behind", "behind on"), ("even", "even on"), ("unknown", "not judged on")):
        line += f", {words} {len(found[kind])} ({', '.join(found[kind])})" if found[kind] else ""
    return f"{line}."


def _gaps(results: Results, subject: str, other: str) -> str:
    """The difference on each text that both have, empty without one."""
    texts = [data for data in results.data if data not in results.tasks]
    both = [(data, results.bits(subject, data), results.bits(other, data)) for data in texts]
    gaps = [f"{data} {mean(mine) - mean(theirs):+.3f}" for data, mine, theirs in both if mine and theirs]
    asked = [(data, results.accuracy(subject, data), results.accuracy(other, data)) for data in results.tasks]
    right = [f"{data} {100 * (mean(mine) - mean(theirs)):+.1f}" for data, mine, theirs in asked if mine and theirs]
    kinds = [(words, found) for words, found in ((main_title(results).lower(), gaps), ("answers right in percent", right)) if found]
    words = "; ".join(f"{words}: {', '.join(found)}" for words, found in kinds)
    return f"{subject} less {other}, {words}." if kinds else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column on the left and the others on the right."""
    shown = [[visible(cell, "") for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    pads = [str.ljust] + [str.rjust] * (len(widths) - 1)
    return ["  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)).rstrip() for row in shown]


def _marked_down(text: str) -> str:
    """Text without Markdown and HTML in it, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(visible(text).split()))


def _cut(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _MOST_HINT else words[: _MOST_HINT - 1] + "…"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
