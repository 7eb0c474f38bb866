"""``subquad info``: what a run is, how it was trained, its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from subquad.cli.arguments import option, parse_arguments, run_folder
from subquad.cli.output import print_json, print_tree

ABOUT = """Says what a run is, how it was trained and how well it does.

Example:
  subquad info runs/books --json"""


@dataclass(frozen=True)
class Info:
    """The arguments of ``subquad info``."""

    run: Annotated[Positional[str], option("a run folder", "RUN")]
    json: Annotated[bool, option("the same as JSON")] = False


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and prints."""
    request = parse_arguments(Info, "info", ABOUT, arguments)
    run = run_folder(request.run)

    from subquad import api

    facts = api.info(run)
    if request.json:
        print_json(facts)
    else:
        print_tree(facts)
