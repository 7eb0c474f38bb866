"""The page of a comparison holds all that is known, escapes every text, needs nothing but itself, and leaves out what there is not."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from subquad.comparison.charts import cost_chart, file_names, inside_chart, learning_curves, window_chart
from subquad.comparison.page import write_page
from tests.comparison.cases import DATA, EVIL, empty, grid
from tests.evaluation.test_report import Reader, read

SECTIONS = [
    "About",
    "Bits per byte",
    "Verdicts",
    "Ways of scoring",
    "Costs",
    "Learning curves",
    "Bits by position inside the patch",
    "Bits by position in the window",
    "Cost by length",
    "Published figures",
    "Probes",
    "Cells",
]


class Headings(Reader):
    """The titles of the sections."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.found.append(data)


def headings(page: Path) -> list[str]:
    reader = Headings()
    reader.feed(page.read_text("utf-8"))
    return reader.found


@pytest.fixture(autouse=True)
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_a_page_holds_every_section_and_figure(tmp_path: Path) -> None:
    page = write_page(grid(), tmp_path / "out")
    assert page == tmp_path / "out" / "report.html" and headings(page) == SECTIONS
    text = read(page).text
    for expected in (
        "2.260 ± 0.010 ★",
        "diverged at steps 120, 121",
        "half of the largest less the smallest",
        "6e+14 training FLOPs a cell",
    ):
        assert expected in text
    for expected in ("megabyte is ahead of transformer on 1 of 3 texts", "2 cores, PyTorch 2", "15 done", "1.30 GB"):
        assert expected in text
    for expected in (
        "Table 2, perplexity",
        "36.4–Transformer69.42.07",
        "megabyte, published",
        "of <Figure> 3",
        "3.142",
        "chooses the learning rate",
        "9.500",
    ):
        assert expected in text
    assert "subquad train 'hyena <b>' --data 'books'" in text and "subquad compare text.yaml --out runs/text" in text


def test_every_text_is_escaped(tmp_path: Path) -> None:
    source = write_page(grid(), tmp_path).read_text("utf-8")
    shown = "</pre><script>alert('x')</script>\\x00\\xff & \\u202e|*"
    reader = read(source)
    assert f"{shown} " in reader.text and ("title", shown) in reader.attributes
    assert "<script" not in source and EVIL not in source
    assert "hyena <b>" in reader.text and "prompts <i>" in reader.text and "How it is <measured>." in reader.text
    assert "b" not in set(reader.tags) and "i" not in set(reader.tags)


def test_charts_lie_beside_the_page(tmp_path: Path) -> None:
    write_page(grid(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    curves = {f"curve_{text}_by_{axis}.svg" for text in ("books", "code", "logs-co") for axis in ("flops", "time")}
    assert names == {"report.html", "inside_patch.svg", "by_position.svg", "cost_by_length.svg"} | curves
    for path in tmp_path.glob("*.svg"):
        ElementTree.fromstring(path.read_text("utf-8"))


def test_pngs_are_written_where_matplotlib_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    write_page(replace(empty(), costs=grid().costs), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "cost_by_length.svg", "cost_by_length.png"}


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    assert headings(write_page(empty(), tmp_path)) == []
    read(tmp_path / "report.html")
    assert headings(write_page(replace(empty(), costs=grid().costs), tmp_path)) == ["Cost by length"]
    waiting = tuple(replace(cell, status="waiting", bits={}, curve=[], probes={}) for cell in grid().outcomes)
    assert headings(write_page(replace(grid(), outcomes=waiting, costs=(), published=()), tmp_path)) == SECTIONS[:2] + ["Costs", "Cells"]


def test_a_shared_configuration_is_said_once(tmp_path: Path) -> None:
    results = grid()
    assert write_page(results, tmp_path).read_text("utf-8").count("Configuration") == 3
    odd = replace(results, outcomes=tuple(replace(cell, config={"cell": cell.cell}) for cell in results.outcomes))
    assert write_page(odd, tmp_path).read_text("utf-8").count("Configuration") == len(results.outcomes)


def test_a_model_keeps_its_colour_and_curves_are_on_log_axes() -> None:
    curves = learning_curves(grid())
    assert list(curves) == list(DATA)
    (_, by_flops), (_, by_time) = curves["books"]
    assert by_flops.log_x and by_time.log_x and by_time.x_label == "training time (seconds)"
    assert [series.hue for series in by_flops.series] == [0, 1, 2]
    assert [series.name for series in curves["code"][0][1].series] == ["transformer", "megabyte", "hyena <b> (diverged)"]
    inside, window, costs = inside_chart(grid()), window_chart(grid()), cost_chart(grid())
    assert inside and window and costs
    assert [(series.name, series.style) for series in inside.series] == [("megabyte", "bars")]
    assert inside.series[0].y[1] == pytest.approx((2.26 + 1.76 + 0.975) / 3)
    assert window.note == "On books." and inside.note == "Means over books, code, logs & co."
    assert list(window.series[0].x) == [12.5, 37.5, 62.5, 87.5]
    assert costs.log_x and costs.log_y and [(s.style, s.hue) for s in costs.series] == [("line", 0), ("marks", 0), ("marks", 1)]


def test_no_two_texts_share_a_file() -> None:
    assert file_names(["A b", "a-b", "ü", "/", "c"]) == {"A b": "a-b", "a-b": "a-b-2", "ü": "text", "/": "text-2", "c": "c"}


def test_a_curve_starts_where_it_comes_into_sight() -> None:
    (_, chart), _ = learning_curves(grid())["books"]
    first = chart.series[1]
    assert chart.y_top is not None and first.y[0] > chart.y_top > first.y[1] and len(first.x) == 5
