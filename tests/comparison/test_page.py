"""The page of a comparison holds all that is known, escapes every text, needs nothing but itself, and leaves out what there is not."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from subquad.comparison.charts import cost_chart, file_names, inside_chart, learning_curves, window_chart
from subquad.comparison.page import write_page
from subquad.comparison.results import CurvePoint, results_from
from subquad.comparison.tables import plain
from subquad.sections import Passage
from tests.comparison.cases import empty, grid
from tests.report.reading import SHOWN, read

SECTIONS = [
    "About",
    "Bits per byte",
    "Verdicts",
    "Scoring windows",
    "Costs",
    "Learning curves",
    "Bits by position inside the patch",
    "Bits by position in the window",
    "Cost by length",
    "Published figures",
    "Samples",
    "Surprise",
    "Probes",
    "Runs",
]
FIGURES = {"Learning curves", "Bits by position inside the patch", "Bits by position in the window"}


@pytest.fixture(autouse=True)
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_a_page_holds_every_section_and_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    path = write_page(grid(), tmp_path / "out")
    page = read(path)
    assert path == tmp_path / "out" / "report.html" and page.headings == SECTIONS
    assert page.tags.count("svg") == 6 + 3
    curves = {f"curve_{text}_by_{axis}" for text in ("books", "code", "logs-co") for axis in ("flops", "time")}
    names = {"inside_patch", "by_position", "cost_by_length"} | curves
    assert {file.name for file in path.parent.iterdir()} == {
        "report.html",
        *(f"{name}.{kind}" for name in names for kind in ("svg", "png")),
    }


def test_a_page_says_what_the_results_hold(tmp_path: Path) -> None:
    page = read(write_page(grid(), tmp_path))
    assert page.headings == [title for title in SECTIONS if title not in FIGURES]
    assert "pip install 'subquad[report]'" in page.text and [file.name for file in tmp_path.iterdir()] == ["report.html"]
    for expected in ("2.260 ± 0.010", "0.975 ± 0.100 ★", "diverged at steps 120, 121", "6e+14 training FLOPs a cell", "2 cores, PyTorch 2"):
        assert expected in page.text
    for expected in ("xz <-9> (alone)", "2.000 ★", "megabyte is ahead of transformer on 1 of 3 texts", "15 done", "1.30 GB"):
        assert expected in page.text
    for expected in ("Table 2, perplexity", "MEGABYTE <1.3B>36.4–", "Transformer69.42.07", "of <Figure> 3", "3.142", "9.500"):
        assert expected in page.text
    assert "subquad train 'hyena <b>' --data 'books'" in page.text and "subquad compare text.yaml --out runs/text" in page.text


def test_every_text_is_escaped(tmp_path: Path) -> None:
    page = read(write_page(grid(), tmp_path))
    assert f"{SHOWN} by megabyte" in page.text and ("title", SHOWN) in page.attributes
    assert "hyena <b>" in page.text and "prompts <i>" in page.text and "How it is <measured>." in page.text
    assert "b" not in set(page.tags)
    assert ("title", "é: 1.50 + 1.50 = 3.00 bits, byte 4 of 4") in page.attributes and "\\xff" in page.text


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    assert read(write_page(empty(), tmp_path)).headings == []
    assert read(write_page(replace(empty(), costs=grid().costs), tmp_path)).headings == ["Cost by length"]
    waiting = tuple(replace(outcome, status="waiting", loss={}, curve=[], probes={}) for outcome in grid().outcomes)
    page = read(write_page(replace(grid(), outcomes=waiting, costs=(), published=()), tmp_path))
    assert page.headings == ["About", "Bits per byte", "Costs", "Runs"]


def test_a_shared_configuration_is_said_once(tmp_path: Path) -> None:
    results = grid()
    assert write_page(results, tmp_path).read_text("utf-8").count("Configuration") == 3
    odd = replace(results, outcomes=tuple(replace(outcome, config={"cell": outcome.cell}) for outcome in results.outcomes))
    assert write_page(odd, tmp_path).read_text("utf-8").count("Configuration") == len(results.outcomes)


def test_results_come_back_from_json_whole() -> None:
    back = results_from(json.loads(json.dumps(grid().record())))
    assert back == grid() and plain(back) == plain(grid())


@pytest.mark.parametrize("record", [{}, [1], {"title": "t", "models": 3}, grid().record() | {"outcomes": [{"cell": "a"}]}])
def test_what_is_not_a_result_is_refused(record: object) -> None:
    with pytest.raises(ValueError, match="validation error"):
        results_from(record)


def test_a_passage_without_a_title_is_read() -> None:
    """As results.json held it in 0.1.0."""
    record = json.loads(json.dumps(grid().record()))
    (passage,) = (outcome["passage"] for outcome in record["outcomes"] if outcome["passage"])
    assert passage["data"] == "caf\xc3\xa9 \xff"
    del passage["title"], passage["note"]
    read = [outcome.passage for outcome in results_from(record).outcomes if outcome.passage]
    assert read == [Passage("", b"caf\xc3\xa9 \xff", [1.5] * 7, 4)]


def test_a_model_keeps_its_colour_and_curves_are_on_log_axes() -> None:
    curves = learning_curves(grid())
    by_flops, by_time = curves["curve_books_by_flops"], curves["curve_books_by_time"]
    assert by_flops.log_x and by_time.log_x and by_time.x_label == "training time (seconds)"
    assert [series.hue for series in by_flops.series] == [0, 1, 2]
    assert [(level.name, level.y) for level in by_flops.levels] == [("xz <-9>", 2.0)]
    assert [series.name for series in curves["curve_code_by_time"].series] == ["transformer", "megabyte", "hyena <b> (diverged)"]
    inside, window, costs = inside_chart(grid()), window_chart(grid()), cost_chart(grid())
    assert inside and window and costs
    assert [(series.name, series.style) for series in inside.series] == [("megabyte", "bars")]
    assert inside.series[0].y[1] == pytest.approx((2.26 + 1.76 + 0.975) / 3)
    assert window.note == "On books." and inside.note == "Means over books, code, logs & co."
    assert list(window.series[0].x) == [12.5, 37.5, 62.5, 87.5]
    assert costs.log_x and costs.log_y and [(s.style, s.hue) for s in costs.series] == [("line", 0), ("marks", 0), ("marks", 1)]


def test_curves_go_by_bytes_where_nobody_counts_flops() -> None:
    outcomes = tuple(replace(outcome, curve=[(None, *point[1:]) for point in outcome.curve]) for outcome in grid().outcomes)
    curves = learning_curves(replace(grid(), outcomes=outcomes))
    assert "curve_books_by_flops" not in curves and list(curves["curve_books_by_bytes"].series[0].x)[-1] == 10_000_000


def test_no_two_texts_share_a_file() -> None:
    assert file_names(["A b", "a-b", "ü", "/", "c"]) == {"A b": "a-b", "a-b": "a-b-2", "ü": "text", "/": "text-2", "c": "c"}


def test_a_curve_starts_where_it_comes_into_sight() -> None:
    chart = learning_curves(grid())["curve_books_by_flops"]
    first = chart.series[1]
    assert chart.y_top is not None and first.y[0] > chart.y_top > first.y[1] and len(first.x) == 6


def test_a_loss_of_zero_leaves_the_curves_in_sight() -> None:
    falling: list[CurvePoint] = [(1e9 * n, float(n), n, loss) for n, loss in enumerate([8.0, 2.0, 0.5, 0.0], 1)]
    outcomes = tuple(replace(outcome, curve=falling) for outcome in grid().outcomes)
    chart = learning_curves(replace(grid(), outcomes=outcomes, baselines=()))["curve_books_by_flops"]
    assert chart.y_top == pytest.approx(2.1) and all(list(series.y) == [8.0, 2.0, 0.5, 0.0] for series in chart.series)
