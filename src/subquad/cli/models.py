"""``subquad models``: the presets with their sizes and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from subquad.cli.arguments import option, parse_arguments
from subquad.cli.output import print_columns, print_json, short

ABOUT = """Lists the presets: parameters, FLOPs of a forward pass per byte, context.

Example:
  subquad models --json"""


@dataclass(frozen=True)
class Models:
    """The arguments of ``subquad models``."""

    json: Annotated[bool, option("the same as JSON")] = False


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and prints the table."""
    request = parse_arguments(Models, "models", ABOUT, arguments)

    from subquad import api

    table = api.model_table()
    if request.json:
        print_json(table)
        return
    rows = [[str(row["name"]), short(row["parameters"]), short(row["flops_per_byte"]), f"{row['max_len']:,}"] for row in table]
    print_columns([["model", "parameters", "FLOPs/byte", "context"], *rows])
