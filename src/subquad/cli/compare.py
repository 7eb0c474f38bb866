"""``subquad compare``: models times data at one budget, into one table and one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction

from subquad.cli.arguments import WHOLE, option, parse_arguments
from subquad.cli.output import print_json
from subquad.errors import RunError

ABOUT = """Trains models on the same data at the same budget, as an experiment file says, and sets them side by side.

Example:
  subquad compare experiments/megabyte-text.yaml --out runs/text --jobs 2

Interrupted, it keeps every cell that is done; this goes on where it stopped:
  subquad compare experiments/megabyte-text.yaml --out runs/text --jobs 2 --resume

On files of your own in place of the experiment's:
  subquad compare experiments/megabyte-text.yaml --out runs/mine --data books=~/books/*.txt"""


@dataclass(frozen=True)
class Compare:
    """The arguments of ``subquad compare``."""

    experiment: Annotated[Positional[str], option("an experiment file; experiments/ holds some", "EXPERIMENT.yaml")] = ""
    out: Annotated[str, option("the folder to write; must be new or empty without --resume", "DIR")] = ""
    data: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], option("other files for one of the experiment's texts", "NAME=PATH...")
    ] = ()
    resume: Annotated[bool, option("go on with the comparison in --out; cells that failed are tried again")] = False
    quick: Annotated[bool, option("a tiny budget, one seed: shows in a minute that all runs, and nothing else")] = False
    jobs: Annotated[int | None, WHOLE, option("cells at a time, which share the cores (default 1)")] = None
    json: Annotated[bool, option("print results.json in place of the tables")] = False
    quiet: Annotated[bool, option("no progress")] = False


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments, runs the comparison and prints its tables."""
    request = parse_arguments(Compare, "compare", ABOUT, arguments)
    if not request.experiment:
        raise ValueError("name an experiment file, such as experiments/megabyte-text.yaml")
    if not request.out:
        raise ValueError("--out is missing: name the folder to write, such as --out runs/text")
    from subquad.comparison.experiment import quick_version, read_experiment, with_data

    experiment = with_data(read_experiment(request.experiment), _paths(request.data))
    experiment = quick_version(experiment) if request.quick else experiment

    from subquad.comparison.runner import compare
    from subquad.comparison.tables import plain

    jobs = 1 if request.jobs is None else request.jobs
    results = compare(experiment, request.out, resume=request.resume, jobs=jobs, command=_command(arguments), quiet=request.quiet)
    if request.json:
        print_json(results.record())
    else:
        print(plain(results))
        print(f"\nThe report, with pictures: {Path(request.out, 'report.html')}")
    failed = [outcome for outcome in results.outcomes if outcome.status == "failed"]
    if failed:
        first = f"{failed[0].cell} failed: {failed[0].error}"
        raise RunError(f"{len(failed)} of {len(results.outcomes)} cells failed, the first: {first} (--resume tries them again)")


def _paths(given: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """``[["books=a.txt", "b.txt"], ...]`` as name -> files."""
    paths: dict[str, list[str]] = {}
    for first, *others in given:
        name, equals, path = first.partition("=")
        if not name or not path or not equals:
            raise ValueError(f"--data expects NAME=PATH, such as books=my.txt, got {first!r}")
        if name in paths:
            raise ValueError(f"--data {name} is given twice: name all its files at once")
        paths[name] = [str(Path(one).expanduser()) for one in (path, *others)]
    return paths


def _command(arguments: Sequence[str]) -> str:
    kept = [argument for argument in arguments if argument not in ("--resume", "--json", "--quiet")]
    return shlex.join(["subquad", "compare", *kept])
