"""``subquad models``: the presets with their sizes and costs."""

from __future__ import annotations

from collections.abc import Sequence

from subquad.cli.arguments import Parser
from subquad.cli.output import print_json
from subquad.format import count
from subquad.report.tables import print_table

ABOUT = """Lists the presets: parameters, FLOPs of a forward pass per byte, context length.

Example:
  subquad models --json"""


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and prints the table."""
    parser = Parser("models", "[--json]", ABOUT)
    parser.add_argument("--json", action="store_true", help="print JSON")
    request = parser.read(arguments)

    from subquad import api

    table = api.model_table()
    if request.json:
        print_json(table)
        return
    rows = [[str(row["name"]), count(row["parameters"]), count(row["flops_per_byte"]), f"{row['max_len']:,}"] for row in table]
    print_table(["model", "parameters", "FLOPs/byte", "context"], rows)
