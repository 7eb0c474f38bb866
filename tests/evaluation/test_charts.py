"""Both renderers show a chart whole: every series, level and label, on round ticks, with any text made safe."""

from __future__ import annotations

import builtins
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.evaluation.axes import bar_axis, spread, tick_labels, value_axis
from subquad.evaluation.charts import PALETTE, Chart, Level, Series, png, svg

SVG = "{http://www.w3.org/2000/svg}"
CURVE = Series("train", [0, 1, 2, 3], [8.0, 4.0, 3.0, 2.5])
FINITE = st.floats(-1e6, 1e6)


def chart(*series: Series) -> Chart:
    return Chart("Learning curve", "training bytes", "bits per byte", series)


def drawn(picture: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(svg(picture))


def words(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_a_picture_holds_title_labels_legend_and_a_description() -> None:
    root = drawn(chart(CURVE, Series("validation", [1, 3], [4.1, 2.6], "marked")))
    assert {"Learning curve", "training bytes", "bits per byte", "train", "validation"} <= set(words(root))
    assert root.find(f"{SVG}title").text == "Learning curve"  # type: ignore[union-attr]
    assert "train from 8 to 2.5" in (root.find(f"{SVG}desc").text or "")  # type: ignore[union-attr]
    assert root.get("role") == "img"
    assert len(list(root.iter(f"{SVG}polyline"))) == 2 and len(list(root.iter(f"{SVG}circle"))) == 2


def test_without_a_heading_the_title_is_left_to_the_page() -> None:
    root = ElementTree.fromstring(svg(chart(CURVE), heading=False))
    assert "Learning curve" not in words(root)
    assert root.find(f"{SVG}title").text == "Learning curve"  # type: ignore[union-attr]


def test_text_is_never_markup() -> None:
    name = "</text><script>alert(1)</script>\x00\ud800\u202e\"'&"
    root = drawn(Chart(name, name, name, (Series(name, [1, 2], [1, 2]), Series(name, [1], [1], "marked")), (Level(name, 1.5),), note=name))
    assert root.find(".//script") is None and root.find(f".//{SVG}script") is None
    assert words(root)[0] == "</text><script>alert(1)</script>\\x00\\ud800\\u202e\"'&"


def test_bars_start_at_zero_and_carry_their_values() -> None:
    root = drawn(chart(Series("byte", [1, 2, 3], [3.0, 1.5, 0.75], "bars")))
    bars = [element for element in root.iter(f"{SVG}rect") if element.get("class") == "f0"]
    heights = [float(bar.get("height", "0")) for bar in bars]
    assert heights[0] / heights[1] == pytest.approx(2, rel=0.01) and heights[0] / heights[2] == pytest.approx(4, rel=0.01)
    assert {"3.00", "1.50", "0.75"} <= set(words(root))


def test_points_that_cannot_be_drawn_are_left_out() -> None:
    series = Series("x", [1, 2, math.nan, 4, 0], [1, math.inf, 3, 4, 5])
    assert chart(series).points(series) == [(1, 1), (4, 4), (0, 5)]
    log = Chart("t", "x", "y", (series,), (Level("none", math.nan),), log_x=True, log_y=True)
    assert log.points(series) == [(1, 1), (4, 4)] and log.drawn_levels() == []
    assert "no data" in words(drawn(chart())) and "no data" in words(drawn(chart(Series("x", [], []))))


def test_a_cut_axis_keeps_what_lies_below() -> None:
    cut = Chart("t", "x", "y", (CURVE,), (Level("xz", 2.9),), y_top=4.0)
    assert cut.axes()[1].high == 4.0 and cut.axes()[1].low <= 2.5
    assert Chart("t", "x", "y", (CURVE,), y_top=90.0).axes()[1].high == 8.0


def test_many_points_make_a_small_picture_with_the_same_extremes() -> None:
    values = [math.sin(index / 7) + (5 if index == 4321 else 0) for index in range(100_000)]
    picture = svg(chart(Series("train", range(100_000), values)))
    assert len(picture) < 40_000
    points = ElementTree.fromstring(picture).find(f".//{SVG}polyline").get("points", "").split()  # type: ignore[union-attr]
    assert min(float(point.split(",")[1]) for point in points) < min(sorted(float(point.split(",")[1]) for point in points)[1:])


def test_more_series_than_colours_stay_inside_the_picture() -> None:
    root = drawn(chart(*(Series(f"a run with a long name {index}", [1, 2], [index, 2.0]) for index in range(2 * len(PALETTE)))))
    assert all(float(element.get("x", "0")) < 760 for element in root.iter(f"{SVG}text"))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 x and 1 y"):
        Series("x", [1, 2], [1])


@given(st.lists(FINITE, min_size=1, max_size=20), st.booleans())
def test_ticks_are_increasing_and_inside_the_axis(values: list[float], tight: bool) -> None:
    axis = value_axis(values, tight=tight)
    assert axis.place(min(values)) >= -1e-9 and axis.place(max(values)) <= 1 + 1e-9  # in axis lengths: values have all magnitudes
    assert 2 <= len(axis.ticks) <= 8 and list(axis.ticks) == sorted(set(axis.ticks))
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)
    assert len(set(axis.labels)) == len(axis.labels)


@given(st.lists(st.floats(1e-9, 1e15), min_size=1, max_size=20))
def test_log_ticks_are_inside_the_axis(values: list[float]) -> None:
    axis = value_axis(values, log=True)
    assert axis.ticks and all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)


def test_labels_share_a_unit_and_tell_ticks_apart() -> None:
    assert tick_labels([0.0, 5e6, 1e7, 1.5e7]) == ["0", "5M", "10M", "15M"]
    assert tick_labels([0.0, 0.5, 1.0]) == ["0", "0.5", "1.0"]
    assert tick_labels([0.0, 2000.0, 4000.0]) == ["0", "2000", "4000"]
    assert tick_labels([1e3, 1e5, 1e7]) == ["1000", "100k", "10M"]
    assert bar_axis([1, 2, 3, 4]).labels == ("1", "2", "3", "4")
    assert len(bar_axis(range(192)).ticks) <= 16


@given(st.lists(st.floats(0, 100), max_size=8))
def test_labels_are_spread_apart(places: list[float]) -> None:
    moved = sorted(spread(places, 5.0))
    assert all(b - a >= 5.0 - 1e-9 for a, b in zip(moved, moved[1:], strict=False))


@pytest.mark.filterwarnings("error")
def test_png_draws_every_kind_of_series_and_leaves_matplotlib_alone(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    series = (CURVE, Series("$x_1$ & _hidden", [1, 2], [3, 2], "marked"), Series("noise", [1, 2], [3, 2], "faint"))
    charts = [
        Chart("$\\frac$", "x", "y", series, (Level("xz -9", 2.94), Level("zstd", 2.95)), y_top=4.0),
        Chart("t", "x", "y", (Series("byte", [1, 2], [3.0, 2.0], "bars"),)),
        Chart("t", "x", "y", (Series("a", [1, 1000], [3, 2]), Series("b", [10], [3], "marks", hue=7)), log_x=True, log_y=True),
        Chart("t", "x", "y", ()),
    ]
    for index, picture in enumerate(charts):
        path = png(picture, tmp_path / f"{index}.png")
        raw = path.read_bytes()
        assert raw.startswith(b"\x89PNG") and (int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24])) == (1520, 800)
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]


def test_png_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'subquad\[plot\]'"):
        png(chart(CURVE), tmp_path / "x.png")


def test_a_log_axis_has_faint_lines_between_the_powers_of_ten_where_there_is_room() -> None:
    axis = value_axis([1e3, 1e6], log=True, tight=True)
    assert axis.ticks == (1e3, 1e4, 1e5, 1e6) and axis.labels == ("1000", "10k", "100k", "1M")
    assert value_axis([1e4, 1e6], log=True, tight=True).labels == ("10k", "100k", "1M")
    assert len(axis.minor) == 3 * 8 and axis.minor[:2] == (2e3, 3e3) and not set(axis.minor) & set(axis.ticks)
    assert value_axis([1.0, 1e9], log=True).minor == value_axis([2.0, 9.0], log=True).minor == value_axis([1.0, 1e3]).minor == ()
    assert tick_labels([1e15, 1e18]) == ["1P", "1E"]
    faint = [line for line in drawn(Chart("t", "x", "y", (CURVE,), log_x=True)).iter(f"{SVG}line") if line.get("stroke-opacity")]
    assert len(faint) == 0
    wide = Chart("t", "x", "y", (Series("a", [1, 1000], [10, 2000]),), log_x=True, log_y=True)
    assert len([line for line in drawn(wide).iter(f"{SVG}line") if line.get("stroke-opacity")]) == sum(
        len(axis.minor) for axis in wide.axes()
    )


def test_marks_stand_without_a_line_in_the_colour_of_their_curve() -> None:
    pair = chart(Series("counted", [1, 2], [3, 4], hue=1), Series("published", [1, 2], [3.5, 4.5], "marks", hue=1))
    root = drawn(pair)
    lines, dots = list(root.iter(f"{SVG}polyline")), list(root.iter(f"{SVG}circle"))
    assert len(lines) == 1 and len(dots) == 1 + 2  # one in the legend
    assert {line.get("stroke") for line in lines} == {dot.get("fill") for dot in dots} == {PALETTE[1]}


def test_past_the_palette_lines_are_dashed() -> None:
    many = chart(*(Series(f"{index}", [1, 2], [index, 2.0]) for index in range(len(PALETTE) + 1)))
    lines = list(drawn(many).iter(f"{SVG}polyline"))
    assert [line.get("stroke-dasharray") for line in lines] == [None] * len(PALETTE) + ["7 4"]
    assert lines[0].get("stroke") == lines[-1].get("stroke")
