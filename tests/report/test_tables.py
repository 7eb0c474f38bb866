"""Tables for a terminal, for Markdown and as CSV: aligned, never cut, and free of stray markup."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

from subquad.report.tables import csv_text, markdown, print_table, text
from subquad.sections import Table
from tests.report.reading import EVIL, SHOWN

BEST = Table("Scores", ["Model", "books"], [["a", "2.5"], ["a long name", "2.25"]], "Less is better.", frozenset({(1, 1)}))


def printed(header: list[str], rows: list[list[str]]) -> list[str]:
    buffer = io.StringIO()
    print_table(header, rows, buffer)
    return buffer.getvalue().splitlines()


def test_columns_are_aligned_and_never_cut_where_the_output_is_not_a_terminal() -> None:
    name = "path/" + 300 * "x"
    assert printed(["file", "bytes"], [[name, "1"], ["b", "1,000"]]) == [
        f"{'file':305}  bytes",
        f"{name}      1",
        f"{'b':305}  1,000",
    ]
    assert printed(["file", "bytes"], []) == ["file  bytes"]


def test_cells_are_texts_whatever_is_in_them() -> None:
    assert printed(["name", "[bold]x"], [[EVIL, ":smile: [red]"]])[1] == f"{SHOWN}  :smile: [red]"


def test_the_best_cells_are_marked() -> None:
    assert text(BEST).splitlines() == ["Scores", "Model         books", "a               2.5", "a long name  * 2.25", "Less is better."]
    assert markdown(BEST) == "| Model | books |\n| --- | ---: |\n| a | 2.5 |\n| a long name | **2.25** |"


def test_a_wide_table_stands_on_its_side() -> None:
    lines = text(Table("", ["Model", *"abcdef"], [["x", *"123456"]])).splitlines()
    assert lines[0] == "Model  x" and lines[-1] == "f      6"


def test_markdown_has_no_markup_of_its_cells() -> None:
    row = markdown(Table("", ["a", "b"], [[EVIL, "two\nlines"]])).splitlines()[2]
    assert row.replace("\\|", "").count("|") == 3 and "<" not in row.replace("\\<", "") and "two lines" in row


def test_csv_can_be_read_back() -> None:
    lines = list(csv.reader(io.StringIO(csv_text(["a", "b"], [[1.5, 'x,"y"\n'], [None, "\udcff"]]), newline="")))
    assert lines == [["a", "b"], ["1.5", 'x,"y"\n'], ["", "\\udcff"]]


def test_tables_need_no_torch() -> None:
    check = (
        "import sys, subquad.report.tables, subquad.format; sys.exit(bool({'torch', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0
