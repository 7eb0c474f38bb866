"""``subquad classify``: the label of each text and how probable it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional

from subquad.cli.arguments import TEXT, option, parse_arguments, run_or_repository
from subquad.cli.output import print_columns, print_json

ABOUT = """Says to which class texts belong and how probable each class is, or which number a model estimates of each; how well that
agrees where labels are given.

Example:
  subquad classify runs/reviews reviews.tsv --json

One text:
  echo -n "a stirring , funny film" | subquad classify runs/reviews -

A .tsv, .csv or .jsonl is a table with a text in each line, in the columns that the run was trained on, and perhaps labels. Any other file,
and stdin, is one text; below a folder or archive, one that lies in a folder called as a class of the run has that label."""


@dataclass(frozen=True)
class Classify:
    """The arguments of ``subquad classify``."""

    run: Annotated[Positional[str], option("the run folder of a classifier, or a Hugging Face repo id", "RUN")]
    files: Annotated[
        Positional[tuple[str, ...]], option("tables, files of one text each, or folders and archives of these; - is stdin", "FILE...")
    ]
    text: Annotated[str | None, TEXT, option("the column of the text: a name, or a number from 0 on without a line of names")] = None
    label: Annotated[str | None, TEXT, option("the column of the label")] = None
    table: Annotated[str | None, TEXT, option("tsv, csv or jsonl: what all files, and stdin, are whatever their names", "KIND")] = None
    truncate: Annotated[bool, option("read only the beginning of a text that exceeds the context")] = False
    json: Annotated[bool, option("labels, probabilities and figures as JSON")] = False
    device: Annotated[str, option("cpu, the default, cuda or cuda:1", "DEVICE")] = "cpu"


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments, classifies and prints."""
    request = parse_arguments(Classify, "classify", ABOUT, arguments)
    if not request.files:
        raise ValueError("name at least one file to classify, or - for stdin")
    run = run_or_repository(request.run)

    from subquad import api

    columns = {"text": _column(request.text), "label": _column(request.label), "table": request.table}
    changed = {name: value for name, value in columns.items() if value is not None}
    examples = api.read_texts(request.files, run, changed)
    model = api.load(run, request.device)
    texts, labels = [example.text for _, example in examples], [example.label for _, example in examples]
    if api.is_regression(model):
        numbers = api.regress(model, texts, truncate=request.truncate)
        answers: list[dict[str, Any]] = [{"number": number} for number in numbers]
        figures = api.regression_metrics(numbers, labels)
    else:
        results = api.classify(model, texts, truncate=request.truncate)
        answers = [{"label": found.label, "probabilities": found.probabilities} for found in results]
        figures = api.classification_metrics(results, labels)
    rows = [
        {"text": name, **answer, **({} if label is None else {"true": label})}
        for (name, _), label, answer in zip(examples, labels, answers, strict=True)
    ]
    if request.json:
        print_json({"run": request.run, "texts": rows, "figures": figures})
        return
    _print(rows, figures)


def _column(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdigit() else name


def _print(rows: Sequence[dict[str, Any]], figures: dict[str, float] | None) -> None:
    labelled = figures is not None
    columns = ["number"] if rows and "number" in rows[0] else ["label", "probability"]
    table = [["text", *columns, *(["true"] if labelled else [])]]
    for row in rows:
        answer = [f"{row['number']:.4f}"] if "number" in row else [row["label"], f"{row['probabilities'][row['label']]:.4f}"]
        table.append([row["text"], *answer, *([row.get("true", "-")] if labelled else [])])
    print_columns(table)
    if figures is not None:
        sys.stdout.write("".join(f"\n{name} {value:.4f}" for name, value in figures.items()) + "\n")
