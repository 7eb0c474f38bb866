"""``subquad classify``: the class of each text and how probable it is, or the value that a regression model gives it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from subquad.cli.arguments import Parser, add_device, add_quiet, add_run, add_texts, column, given, run_or_repository
from subquad.cli.output import print_json
from subquad.cli.texts import readable
from subquad.console import WorkProgress
from subquad.report.tables import print_table

ABOUT = """Classifies texts: the label of each text and the probability of every class, or the value of each text
from a regression model. With labels given, also accuracy or correlations.

Example:
  subquad classify runs/reviews reviews.tsv --json

One text from stdin:
  echo -n "a stirring , funny film" | subquad classify runs/reviews -

A .tsv, .csv, .jsonl or .parquet file is a table with one text per line, and perhaps a label, in the columns that the
run was trained on. Any other file, and stdin, is one text. A file in a folder that is named after a class of
the run, inside a folder or archive, has that class as its label."""


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad classify``."""
    add_run(parser, "the run folder of a classifier")
    parser.add_argument("--json", action="store_true", help="print labels, probabilities and metrics as JSON")
    parser.add_argument("--label", type=column, metavar="COLUMN", help="column of the label, if not the one of the training")
    add_quiet(parser)
    add_device(parser)
    add_texts(parser, "tables, files of one text each, or folders and archives of these")


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments, classifies and prints."""
    parser = Parser("classify", "RUN FILE... [options]", ABOUT)
    add_arguments(parser)
    request = parser.read(arguments)
    run = run_or_repository(request.run)
    if not request.files:
        raise ValueError("name at least one file to classify, or - for stdin")

    from subquad import api

    examples = api.read_texts(request.files, run, given(request, "text", "label", "table"))
    model = api.load(run, request.device)
    regression = api.is_regression(model)  # what is no classifier is told before what is wrong with a text
    examples, left_out = readable(model, examples, request.truncate, request.skip_bad)
    texts, labels = [example.text for _, example in examples], [example.label for _, example in examples]
    options = {"truncate": request.truncate}
    if regression:
        with WorkProgress("texts", request.quiet) as progress:
            values = api.regress(model, texts, **options, progress=progress)
        answers: list[dict[str, Any]] = [{"value": value} for value in values]
        metrics = api.regression_metrics(values, labels)
    else:
        with WorkProgress("texts", request.quiet) as progress:
            results = api.classify(model, texts, **options, progress=progress)
        answers = [{"label": result.label, "probabilities": result.probabilities} for result in results]
        metrics = api.classification_metrics(results, labels)
    rows = [
        {"text": name, **answer, **({} if label is None else {"true": label})}
        for (name, _), label, answer in zip(examples, labels, answers, strict=True)
    ]
    if request.json:
        print_json({"run": request.run, "texts": rows, "metrics": metrics, "left_out": left_out})
    else:
        _print(rows, metrics)


def _print(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, float] | None) -> None:
    columns = ["value"] if rows and "value" in rows[0] else ["label", "probability"]
    header, table = ["text", *columns, *(["true"] if metrics is not None else [])], []
    for row in rows:
        answer = [f"{row['value']:.4f}"] if "value" in row else [row["label"], f"{row['probabilities'][row['label']]:.4f}"]
        table.append([row["text"], *answer, *([row.get("true", "-")] if metrics is not None else [])])
    print_table(header, table)
    if metrics is not None:
        sys.stdout.write("".join(f"\n{name} {value:.4f}" for name, value in metrics.items()) + "\n")
