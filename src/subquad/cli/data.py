"""``subquad data``: public data sets by name."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from subquad.cli.arguments import Parser
from subquad.cli.output import print_json
from subquad.format import count, visible

_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}  # an address stays in one piece

ABOUT = """Public data sets by name: list shows them with source, licence, size and hash, fetch downloads and checks one, path prints its
folder. They lie in the folder that SUBQUAD_DATA names, or in the user's cache folder; --data NAME: reads one, and
--data NAME:FILE a file of it.

Example:
  subquad data fetch text/tinyshakespeare
  subquad train hyena-small --data tinyshakespeare: --out runs/shakespeare --steps 1000"""


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and lists, fetches or prints the path."""
    parser = Parser("data", "list [--json] | fetch NAME... | path NAME", ABOUT)
    parser.add_argument("action", nargs="?", choices=("list", "fetch", "path"), help="what to do")
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets")
    parser.add_argument("--json", action="store_true", help="with list, print JSON")
    request = parser.read(arguments)

    if request.action is None:
        raise ValueError("name what to do: subquad data list, fetch NAME or path NAME")

    from subquad.data import sets

    if request.action == "list":
        names = [sets.full_name(name) for name in request.names] or list(sets.data_sets())
        _print_list(names, request.json)
        return
    if not request.names:
        raise ValueError(f"name a data set, such as subquad data {request.action} text/tinyshakespeare (subquad data list shows all)")
    for name in request.names:
        if request.action == "path":
            sets.present_files(name)  # refuses a set that is not there
        print(sets.fetch(name) if request.action == "fetch" else sets.set_folder(name))


def _print_list(names: Sequence[str], as_json: bool) -> None:
    from subquad.data import sets

    table: list[dict[str, Any]] = [
        {"name": name, "folder": str(sets.set_folder(name)), "bytes": _size(sets.data_sets()[name]["files"]), **sets.data_sets()[name]}
        for name in names
    ]
    if as_json:
        print_json(table)
        return
    for row in table:
        size = "size unknown" if row["bytes"] is None else count(row["bytes"], "B")
        print(visible(f"{row['name']}: {size}, {_hashes(row['files'])}"))
        for line in (f"licence: {row['licence']}", f"source: {row['source']}"):
            print(textwrap.fill(visible(line), 100, initial_indent="  ", subsequent_indent="    ", **_WHOLE))


def _size(files: Sequence[dict[str, Any]]) -> int | None:
    sizes = [file.get("size") for file in files]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _hashes(files: Sequence[dict[str, Any]]) -> str:
    """The hash of a single file, in short; of several, how many are pinned."""
    pinned = [f"{kind} {file[kind][:12]}" for file in files for kind in ("sha256", "md5") if kind in file]
    if not pinned:
        return "not pinned"
    return pinned[0] if len(files) == 1 else f"{len(pinned)} of {len(files)} files pinned"
