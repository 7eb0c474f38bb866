"""A figure shows the values of its chart in stable colours, takes any name as it is, and is the same in every run."""

from __future__ import annotations

import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

import matplotlib
from matplotlib.colors import to_hex

from subquad.report.figures import COLORS, PALETTE, WIDTH, Chart, Level, Series, bars, draw, render, tick, write_figures
from subquad.sections import Bars
from tests.report.reading import EVIL

CURVE = Series("train", [0, 1, 2, 3], [8.0, 4.0, 3.0, 2.5])


def chart(*series: Series) -> Chart:
    return Chart("Learning curve", "training bytes", "bits per byte", series)


def texts(svg: str) -> set[str]:
    return {"".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}


def axes(picture: Chart) -> Any:
    return draw(picture).axes[0]


def test_one_figure_is_written_as_svg_and_as_png(tmp_path: Path) -> None:
    parts = write_figures({"curve": chart(CURVE, Series("validation", [1, 3], [4.1, 2.6], "marked"))}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"curve.svg", "curve.png"} and list(parts) == ["curve"]
    shown = texts((tmp_path / "curve.svg").read_text())
    assert {"Learning curve", "training bytes", "bits per byte", "train", "validation"} <= shown
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_part_of_a_page_has_the_colours_of_the_page_and_a_description(tmp_path: Path) -> None:
    part = write_figures({"curve": chart(CURVE)}, tmp_path)["curve"]
    assert "var(--c0)" in part and not [color for color in COLORS.values() if color in part]
    assert "train from 8 to 2.5" in str(ElementTree.fromstring(part).get("aria-label"))


def test_figures_are_the_same_in_every_run_and_leave_matplotlib_alone() -> None:
    before, loaded = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    assert render(chart(CURVE)) == render(chart(CURVE))
    assert dict(matplotlib.rcParams) == before and ("matplotlib.pyplot" in sys.modules) == loaded


def test_a_long_legend_leaves_room_for_the_plot() -> None:
    figure = draw(chart(*[Series(f"a model with a name, number {number}", [0, 1], [1.0, number]) for number in range(18)]))
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().height * figure.get_figheight() * 72 > 100


def test_any_name_is_shown_as_it_is() -> None:
    name = "_</text>$\\frac$\x00\ud800\u202e\"'&"
    svg, _ = render(
        Chart(name, name, name, (Series(name, [1, 2], [1, 2]), Series(name, [1], [1], "marked")), (Level(name, 1.5),), note=name)
    )
    assert "_</text>$\\frac$\\x00\\ud800\\u202e\"'&" in texts(svg)
    render(chart(Series(EVIL, [1, 2], [2, 1], "faint"), Series("漢字 ไทย", [1], [1], "marks")))


def test_values_are_drawn_and_what_cannot_be_is_left_out() -> None:
    series = Series("x", [1, 2, math.nan, 4, 0], [1, math.inf, 3, 4, 5], "marked")
    assert [list(values) for values in axes(chart(series)).lines[0].get_data()] == [[1, 4, 0], [1, 4, 5]]
    log = Chart("t", "x", "y", (series,), (Level("none", math.nan),), log_x=True, log_y=True)
    assert list(axes(log).lines[0].get_xdata()) == [1, 4] and len(axes(log).lines) == 1
    for empty in (chart(), chart(Series("x", [], []))):
        assert "no data" in texts(render(empty)[0])


def test_bars_start_at_zero_and_carry_their_values() -> None:
    plot = axes(bars(Bars("Inside", "byte", "bits", [3.0, 1.5, 0.75])))
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height()) for bar in plot.patches] == [
        (pytest.approx(1), 0, 3.0),
        (pytest.approx(2), 0, 1.5),
        (pytest.approx(3), 0, 0.75),
    ]
    assert {"3.00", "1.50", "0.75"} <= texts(render(bars(Bars("Inside", "byte", "bits", [3.0, 1.5, 0.75])))[0])


def test_text_can_be_read_on_a_phone() -> None:
    pictures = [bars(Bars("Inside", "byte", "bits", [3.0, 1.5])), Chart("t", "x", "y", (CURVE, CURVE), (Level("xz", 2.6),))]
    sizes = [float(size) for picture in pictures for size in re.findall(r"font(?:-size)?: ([\d.]+)px", render(picture)[0])]
    assert len(sizes) > 20 and min(sizes) * 350 / WIDTH >= 7.5


def test_a_cut_axis_keeps_what_lies_below() -> None:
    low, high = axes(Chart("t", "x", "y", (CURVE,), (Level("xz", 2.2),), y_top=4.0)).get_ylim()
    assert high == 4.0 and 1.8 < low < 2.2
    assert axes(Chart("t", "x", "y", (CURVE,), y_top=90.0)).get_ylim()[1] < 9


def test_a_series_keeps_its_colour_and_is_dashed_past_the_palette() -> None:
    many = axes(chart(*(Series(f"{index}", [1, 2], [index, 2.0]) for index in range(len(PALETTE) + 1))))
    assert [to_hex(line.get_color()) for line in many.lines] == [*PALETTE, PALETTE[0]]
    assert [line.get_linestyle() for line in many.lines] == ["-"] * len(PALETTE) + ["--"]
    pair = axes(chart(Series("counted", [1, 2], [3, 4], hue=1), Series("published", [1, 2], [3.5, 4.5], "marks", hue=1)))
    assert {to_hex(line.get_color()) for line in pair.lines} == {PALETTE[1]} and pair.lines[1].get_linestyle() == "None"


def test_labels_of_levels_do_not_cover_each_other() -> None:
    plot = axes(Chart("t", "x", "y", (CURVE,), tuple(Level(f"level {index}", 3 + index / 1000) for index in range(4))))
    heights = sorted(label.get_position()[1] for label in plot.texts)
    assert len(heights) == 4 and all(after - before > 0.05 for before, after in zip(heights, heights[1:], strict=False))


def test_ticks_read_well() -> None:
    assert [tick(value) for value in (0, 0.5, 2000, 15e3, 5e6, 1.5e15, -0.25)] == ["0", "0.5", "2000", "15k", "5M", "1.5P", "-0.25"]


def test_without_matplotlib_there_are_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert write_figures({"curve": chart(CURVE)}, tmp_path) == {} and not list(tmp_path.iterdir())


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values of x and 1 of y"):
        Series("x", [1, 2], [1])
