"""The tables say what the outcomes hold: means, spreads, what went wrong, and verdicts only where seeds allow one."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from subquad.comparison.results import Results
from subquad.comparison.tables import (
    ONE_SEED,
    RULE,
    cost_table,
    csv_text,
    length_table,
    main_table,
    markdown,
    plain,
    shared_texts,
    tables,
    verdict_lines,
    window_table,
)
from subquad.sections import Table
from tests.comparison.cases import DATA, MODELS, empty, grid
from tests.report.reading import EVIL


def row(table: Table, name: str) -> dict[str, str]:
    return dict(zip(table.header, next(row for row in table.rows if row[0] == name), strict=True))


def test_the_main_table_holds_means_spreads_baselines_and_what_went_wrong() -> None:
    table = main_table(grid())
    assert table.header == ["Model", *DATA] and [row[0] for row in table.rows] == [*MODELS, "xz <-9> (alone)", "zstd"]
    assert row(table, "megabyte") == {"Model": "megabyte", "books": "2.260 ± 0.010", "code": "1.760 ± 0.010", "logs & co": "0.975 ± 0.100"}
    assert row(table, "hyena <b>")["code"] == "diverged at steps 120, 121"
    assert row(table, "hyena <b>")["logs & co"] == "failed"
    assert row(table, "zstd") == {"Model": "zstd", "books": "–", "code": "2.500", "logs & co": "–"}
    alone = row(main_table(grid(1)), "hyena <b>")
    assert alone == {"Model": "hyena <b>", "books": "2.375", "code": "diverged at step 120", "logs & co": "failed"}


def test_the_best_of_each_column_is_marked_and_a_failure_carries_its_error() -> None:
    table = main_table(grid())
    assert table.best == {(3, 1), (0, 2), (1, 3)}, "a compressor may be the best"
    assert table.hints.keys() == {(2, 3)} and table.hints[2, 3].startswith("</pre><script>") and len(table.hints[2, 3]) <= 120
    assert main_table(replace(grid(), models=("megabyte",), baselines=())).best == frozenset()


def test_a_place_where_some_seeds_are_done_says_what_became_of_the_others() -> None:
    results = grid()
    outcomes = [
        replace(cell, status="diverged", step=7) if (cell.model, cell.data, cell.seed) == ("megabyte", "books", 1) else cell
        for cell in results.outcomes
    ]
    results = replace(results, outcomes=tuple(outcomes))
    assert row(main_table(results), "megabyte")["books"] == "2.250 (1 of 2 diverged)"
    assert "no verdict on 1 (books)" in verdict_lines(results)[1]
    waiting = tuple(replace(cell, status="waiting") for cell in results.outcomes)
    assert {text for row in main_table(replace(results, outcomes=waiting, baselines=())).rows for text in row[1:]} == {"–"}


def test_verdicts_count_only_gaps_wider_than_the_spread() -> None:
    assert replace(grid(), reference="").reference == "transformer" and empty().reference == ""
    assert verdict_lines(grid()) == [
        RULE,
        "megabyte is ahead of transformer on 1 of 3 texts, behind on 1 (code), even on 1 (logs & co).",
        "megabyte is ahead of hyena <b> on 1 of 3 texts, no verdict on 2 (code, logs & co).",
    ]


def test_one_seed_gives_numbers_and_no_verdict() -> None:
    assert verdict_lines(grid(1)) == [
        ONE_SEED,
        "megabyte minus transformer, bits per byte: books -0.250, code +0.250, logs & co -0.125.",
        "megabyte minus hyena <b>, bits per byte: books -0.125.",
    ]
    assert verdict_lines(replace(grid(), models=("megabyte",))) == verdict_lines(empty()) == []


def test_scoring_windows_are_compared_on_texts_that_every_scored_model_has() -> None:
    assert shared_texts(grid()) == ["books"]
    table = window_table(grid())
    assert table.header == ["Model", "basic", "sliding", "strided"]
    assert row(table, "megabyte") == {"Model": "megabyte", "basic": "2.260 ± 0.010", "sliding": "2.135 ± 0.010", "strided": "2.010 ± 0.010"}
    assert row(table, "transformer")["strided"] == "–"
    two = replace(grid(), models=("transformer", "megabyte"))
    assert row(window_table(two), "megabyte")["basic"] == f"{(2.26 + 1.76 + 0.975) / 3:.3f}"
    basic_only = tuple(replace(cell, loss={"basic": 2.0}) for cell in two.outcomes if cell.role == "final")
    assert window_table(replace(two, outcomes=basic_only)).rows == []


def test_costs_are_in_words_and_unknown_columns_left_out() -> None:
    assert row(cost_table(grid()), "megabyte") == {
        "Model": "megabyte",
        "Parameters": "3.40M",
        "Forward FLOPs per byte": "20.0M",
        "Training FLOPs per byte": "60.0M",
        "Training bytes": "10.0 MB",
        "Training time": "3 min 35 s",
        "Decoding state": "164 kB",
        "Peak memory of a training step": "1.30 GB",
        "Serial steps per byte": "2.12",
        "Learning rate": "0.001",
    }
    results = grid()
    bare = replace(results, outcomes=tuple(replace(cell, peak_bytes=None) for cell in results.outcomes))
    assert "Peak memory of a training step" not in cost_table(bare).header
    assert length_table(results).rows == [["1,000", "20.0M"], ["10,000", "25.0M"], ["100,000", "90.0M"]]


def test_csv_has_a_line_for_each_run_and_loses_no_figure() -> None:
    results = grid()
    text = csv_text(results)
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(lines) == len(results.outcomes) and text.endswith("\r\n")
    cell = next(line for line in lines if line["cell"] == "code/megabyte-seed1")
    assert (cell["loss_basic"], cell["loss_strided"], cell["training_seconds"]) == ("1.77", "1.52", "215.0")
    assert cell["step"] == "" and lines[0]["loss_validation"] == "9.5" and lines[0]["loss_basic"] == ""
    failed = next(line for line in lines if line["status"] == "failed")
    assert failed["error"] == EVIL.replace("\udcff", "\\udcff")
    text.encode()


def test_markdown_is_a_page_of_tables_without_stray_markup() -> None:
    text = markdown(grid())
    assert text.startswith("# Texts & \\<models\\>\n")
    assert "| megabyte | 2.260 ± 0.010 | 1.760 ± 0.010 | **0.975 ± 0.100** |" in text
    titles = ["Bits per byte", "Scoring windows", "Costs", "Cost by length"]
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {title}" for title in titles]
    assert "- megabyte is ahead of transformer on 1 of 3 texts" in text and "<" not in text.replace("\\<", "")


def test_a_terminal_gets_aligned_columns() -> None:
    lines = plain(grid()).splitlines()
    table = lines[lines.index("Bits per byte") + 1 :][:4]
    assert table[0].index("books") + 5 == table[2].index("2.260 ± 0.010") + 13
    assert lines[lines.index("Costs") + 2].startswith("Parameters"), "on its side: ten columns are wider than three"
    assert all(char.isprintable() for line in lines for char in line)


@pytest.mark.parametrize("results", [empty(), replace(grid(), outcomes=(), baselines=(), costs=())])
def test_nothing_to_say_is_no_error(results: Results) -> None:
    assert results.title.split()[0] in plain(results) and markdown(results).startswith("# ")
    assert csv_text(results).count("\r\n") == 1 and [table.title for table in tables(results) if table.title != "Loss"] == []
