"""A table as it looks in a terminal, in Markdown and as CSV. Needs no torch."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from subquad.format import visible
from subquad.sections import Table


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], file: TextIO | None = None) -> None:
    """Aligned columns, the first to the left and the others to the right; as wide as they are where the output is not a terminal."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for index, name in enumerate(header):
        grid.add_column(Text(visible(name, "")), justify="right" if index else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(visible(cell, "")) for cell in row))
    file = file or sys.stdout
    width = None if file.isatty() else 1_000_000
    console = Console(file=io.StringIO() if width else file, width=width, legacy_windows=False)
    console.print(grid)
    if isinstance(console.file, io.StringIO):
        file.write("".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines()))


def text(table: Table) -> str:
    """Title, columns and note as plain lines. A star marks the best cells; without any, a wide table is transposed."""
    header: Sequence[str] = table.header
    rows: Sequence[Sequence[str]] = [
        [f"* {cell}" if (i, j) in table.best else cell for j, cell in enumerate(row)] for i, row in enumerate(table.rows)
    ]
    if not table.best and len(header) > max(5, len(rows) + 1):
        header, *rows = zip(header, *rows, strict=True)
    buffer = io.StringIO()
    print_table(header, rows, buffer)
    return "\n".join(part for part in (visible(table.title, ""), buffer.getvalue().rstrip("\n"), visible(table.note, "")) if part)


def markdown(table: Table) -> str:
    """The header and rows as a Markdown table, the best cells bold."""
    shown = [
        [f"**{cell}**" if (i, j) in table.best else cell for j, cell in enumerate(map(escape_markdown, row))]
        for i, row in enumerate(table.rows)
    ]
    lines = [[*map(escape_markdown, table.header)], ["---", *["---:"] * (len(table.header) - 1)], *shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(words: str) -> str:
    """A text on one line, in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(visible(words).split()))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lines as RFC 4180 has them; what is not UTF-8 is written out."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
