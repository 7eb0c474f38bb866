"""``subquad compare``: models times data at one budget, into one table and one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from subquad.cli.arguments import Parser, add_quiet, whole_number
from subquad.cli.output import print_json
from subquad.errors import RunError

ABOUT = """Trains several models on the same data with the same budget, as an experiment file says, and compares them.

Example:
  subquad compare experiments/shakespeare.yaml --out runs/compared --jobs 2

Resume an interrupted comparison; finished cells are kept:
  subquad compare experiments/shakespeare.yaml --out runs/compared --jobs 2 --resume

Use your own files in place of the experiment's:
  subquad compare experiments/megabyte-text.yaml --out runs/mine --data books=~/books/*.txt"""


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad compare``."""
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT.yaml", help="an experiment file; experiments/ has some")
    parser.add_argument("--out", metavar="DIR", help="the folder to write; must be new or empty without --resume")
    parser.add_argument(
        "--data", nargs="+", action="append", default=[], metavar="NAME=PATH", help="other files for one of the experiment's texts"
    )
    parser.add_argument("--resume", action="store_true", help="continue the comparison in --out; failed cells are tried again")
    parser.add_argument("--quick", action="store_true", help="one seed and a tiny budget, to see in a minute that everything runs")
    jobs = "cells to run at a time, sharing the cores (default: 1); 0 runs them one by one in this process"
    parser.add_argument("--jobs", type=whole_number, default=1, metavar="N", help=jobs)
    parser.add_argument("--json", action="store_true", help="print results.json in place of the tables")
    add_quiet(parser)


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments, runs the comparison and prints its tables."""
    parser = Parser("compare", "EXPERIMENT.yaml --out DIR [options]", ABOUT)
    add_arguments(parser)
    request = parser.read(arguments)
    if not request.experiment:
        raise ValueError("name an experiment file, such as experiments/megabyte-text.yaml")
    if not request.out:
        raise ValueError("--out is missing: name the folder to write, such as --out runs/text")
    data = _paths(request.data)

    from subquad.comparison.experiment import quick_version, read_experiment, with_data

    experiment = with_data(read_experiment(request.experiment), data)
    experiment = quick_version(experiment) if request.quick else experiment

    from subquad.comparison.runner import compare
    from subquad.comparison.tables import plain

    command = _command(arguments)
    results = compare(experiment, request.out, resume=request.resume, jobs=request.jobs, command=command, quiet=request.quiet)
    if request.json:
        print_json(results.record())
    else:
        print(plain(results))
        print(f"\nThe report, with charts: {Path(request.out, 'report.html')}")
    failed = [outcome for outcome in results.outcomes if outcome.status == "failed"]
    if failed:
        first = f"{failed[0].cell} failed: {failed[0].error}"
        raise RunError(f"{len(failed)} of {len(results.outcomes)} cells failed, the first: {first} (--resume tries them again)")


def _paths(values: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """``[["books=a.txt", "b.txt"], ...]`` as name -> files."""
    paths: dict[str, list[str]] = {}
    for first, *others in values:
        name, equals, path = first.partition("=")
        if not name or not path or not equals:
            raise ValueError(f"--data expects NAME=PATH, such as books=my.txt, got {first!r}")
        if name in paths:
            raise ValueError(f"--data {name} is given twice: name all its files at once")
        paths[name] = [str(Path(file).expanduser()) for file in (path, *others)]
    return paths


def _command(arguments: Sequence[str]) -> str:
    repeated = [argument for argument in arguments if argument not in ("--resume", "--json", "--quiet")]
    return shlex.join(["subquad", "compare", *repeated])
