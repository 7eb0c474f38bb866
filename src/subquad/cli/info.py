"""``subquad info``: what a run is, how it was trained, its scores."""

from __future__ import annotations

from collections.abc import Sequence

from subquad.cli.arguments import Parser, run_folder
from subquad.cli.output import print_json, print_tree
from subquad.errors import RunError

ABOUT = """Shows what a run is, how it was trained and how well it does.

Example:
  subquad info runs/books --json"""


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and prints."""
    parser = Parser("info", "RUN [--json]", ABOUT)
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    request = parser.read(arguments)
    run = run_folder(request.run)

    from subquad import api

    facts = api.info(run)
    if request.json:
        print_json(facts)
    else:
        print_tree(facts)
    if facts.get("damaged"):
        damaged = facts["damaged"]
        verb, them = ("differs", "it") if len(damaged) == 1 else ("differ", "them")
        raise RunError(f"{', '.join(damaged)} in {run} {verb} from its manifest: restore {them} from a copy")
