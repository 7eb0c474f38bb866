"""Charts as plain values, drawn by matplotlib: an SVG and a PNG of the same figure, and the SVG as a part of a page.

The palette is Okabe and Ito's, told apart by colour-blind readers. No state of matplotlib's is changed, and the same chart gives the same
bytes.
"""

from __future__ import annotations

import html
import importlib.util
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from subquad.format import PREFIXES, visible
from subquad.sections import Bars
from subquad.system import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9")
INK, MUTED, RULE, PAPER = "#1f2328", "#656d76", "#e4e7eb", "#ffffff"
COLORS = {"ink": INK, "muted": MUTED, "rule": RULE, "paper": PAPER} | {f"c{hue}": color for hue, color in enumerate(PALETTE)}
NEEDS = "The figures need matplotlib: pip install 'subquad[report]'"

Style = Literal["line", "marked", "marks", "faint", "bars"]
Points = tuple[list[float], list[float]]

WIDTH, HEIGHT, HEADING = 360, 250, 24  # points, few enough for text to be read on a phone; the heading holds the title
LABEL_GAP = 0.055  # of the height, between the labels of levels
_LONGEST = 32  # characters of a name in a legend
_LEGEND_ROWS, _ROW = 4, 16  # rows of a legend that HEIGHT has room for, and the points that one takes
_NUMBERED_BARS = 16  # more have no number above them
_MARKS = 60  # on a line; more run together


@dataclass(frozen=True)
class Series:
    """Named points.

    ``style`` is a line, a line with a mark at each point, marks alone, a faint line (noisy measurements) or bars from zero. Series of the
    same ``hue``, a number from 0, have the same colour; None takes the place in the chart. Past the palette, lines are dashed.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Style = "line"
    hue: int | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r} has {len(self.x)} values of x and {len(self.y)} of y: give as many of both")


@dataclass(frozen=True)
class Level:
    """A named horizontal line to compare with, labelled at its right end."""

    name: str
    y: float


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    ``y_top`` cuts the y axis there when there are points on both sides of it. ``note`` is a sentence for readers who cannot see the
    picture. A point that is not finite, or not positive on a log axis, is left out.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    log_x: bool = False
    log_y: bool = False
    y_top: float | None = None
    note: str = ""

    def points(self, series: Series) -> Points:
        """The x and the y of the points of a series that can be drawn."""
        pairs = [(x, y) for x, y in zip(series.x, series.y, strict=True) if _drawable(x, self.log_x) and _drawable(y, self.log_y)]
        return [float(x) for x, _ in pairs], [float(y) for _, y in pairs]

    def drawn_levels(self) -> list[Level]:
        """The levels that can be drawn."""
        return [level for level in self.levels if _drawable(level.y, self.log_y) and level.y <= (self.y_top or math.inf)]

    def described(self) -> str:
        """The chart in words: the note, then where each series starts and ends."""
        lines = [(series.name, self.points(series)[1]) for series in self.series]
        ends = [f"{name} from {ys[0]:.4g} to {ys[-1]:.4g}" for name, ys in lines if ys]
        ends += [f"{level.name} at {level.y:.4g}" for level in self.drawn_levels()]
        return f"{self.note} {self.y_label} by {self.x_label}: {', '.join(ends) or 'no data'}.".strip()


def bars(part: Bars) -> Chart:
    """A chart of one bar for each value."""
    series = Series(part.x_label, range(1, len(part.values) + 1), part.values, "bars")
    return Chart(part.title, part.x_label, part.y_label, (series,), note=part.note)


def loss_limit(curves: Iterable[Sequence[float]]) -> float:
    """Where to cut the y axis of loss curves: above what follows the first tenth of each, which would flatten the rest.

    Of a long curve the highest twentieth may lie above too: a loss of one batch is noisy.
    """
    later = [sorted(curve[math.ceil(len(curve) / 10) :] or curve) for curve in curves if curve]
    return 1.05 * max(curve[len(curve) - 1 - len(curve) // 20] for curve in later)


def write_figures(charts: Mapping[str, Chart], folder: Path) -> dict[str, str]:
    """Writes each chart as NAME.svg and NAME.png into ``folder`` and returns it as a part of a page, by name.

    Nothing is written, and the result is empty, where matplotlib is not installed.
    """
    if not charts or importlib.util.find_spec("matplotlib") is None:
        return {}
    parts = {}
    for name, chart in charts.items():
        svg, png = render(chart)
        write_atomic(folder / f"{name}.svg", svg.encode())
        write_atomic(folder / f"{name}.png", png)
        parts[name] = inline(svg, chart)
    return parts


def render(chart: Chart) -> tuple[str, bytes]:
    """The chart as an SVG and as a PNG, both of one matplotlib figure."""
    import matplotlib

    settings = {"svg.hashsalt": "subquad", "svg.fonttype": "none", "font.size": 10.5, "text.usetex": False, "text.parse_math": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts may well have it
        figure = draw(chart)
        figure.draw_without_rendering()  # lays it out, once for both formats
        figure.set_layout_engine("none")
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        figure.savefig(png, format="png", dpi=200)
    return svg.getvalue(), png.getvalue()


def inline(svg: str, chart: Chart) -> str:
    """The ``<svg>`` element for a page that says the title itself: its colours are the page's, and it is described to screen readers."""
    svg = svg[svg.index("<svg") :]
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = re.sub(r' id="(?!p[0-9a-f]{10}|m[0-9a-f]{10})[^"]*"', "", svg)  # only what is referred to keeps its id
    words = html.escape(visible(f"{chart.title}. {chart.described()}"))
    box = f'viewBox="0 {HEADING} {WIDTH} {_height(chart) - HEADING}" role="img" aria-label="{words}"'
    return re.sub(r"<svg [^>]*>", lambda _: f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box}>', svg, count=1)


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure; no name in it is read as mathematics."""
    from matplotlib.figure import Figure

    height = _height(chart)
    figure = Figure(figsize=(WIDTH / 72, height / 72), facecolor=PAPER, layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - HEADING / height))  # type: ignore[call-arg]
    figure.text(0.015, 1 - 0.65 * HEADING / height, _name(chart.title, 60), color=INK, size=11.5, weight="bold", va="center")
    axes = figure.subplots()
    _dress(axes, chart)
    handles = [_plot(axes, chart, index) for index in range(len(chart.series))]
    _limit(axes, chart)
    _levels(axes, chart)
    if not any(chart.points(series)[0] for series in chart.series):
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color=MUTED)
    if len(handles) > 1:
        names = [_name(series.name) for series in chart.series]
        columns = _legend_columns(chart)
        legend = axes.legend(
            handles, ["."] * len(names), loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False, columnspacing=1.5
        )
        for label, name in zip(legend.get_texts(), names, strict=True):
            label.set(text=name, color=INK)
    return figure


def _legend_columns(chart: Chart) -> int:
    return max(1, 51 // (max(len(_name(series.name)) for series in chart.series) + 7))


def _height(chart: Chart) -> int:
    """Points; more where the legend is long, so that it leaves room for the plot."""
    rows = math.ceil(len(chart.series) / _legend_columns(chart)) if chart.series else 0
    return HEIGHT + _ROW * max(0, rows - _LEGEND_ROWS)


def _dress(axes: Axes, chart: Chart) -> None:
    axes.set_facecolor(PAPER)
    axes.set_xlabel(_name(chart.x_label, 60), color=MUTED)
    axes.set_ylabel(_name(chart.y_label, 40), color=MUTED)
    axes.tick_params(which="both", length=0, labelcolor=MUTED)
    barred = any(series.style == "bars" for series in chart.series)
    axes.grid(axis="y" if barred else "both", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=MUTED)


def _plot(axes: Axes, chart: Chart, index: int) -> Any:
    """Draws one series and returns what stands for it in the legend."""
    series = chart.series[index]
    hue = index if series.hue is None else series.hue
    color, (x, y) = PALETTE[hue % len(PALETTE)], chart.points(series)
    if series.style == "bars":
        steps = [after - before for before, after in zip(sorted(x), sorted(x)[1:], strict=False)]
        drawn = axes.bar(x, y, width=0.72 * min(steps, default=1.0), color=color)
        if len(x) <= _NUMBERED_BARS:
            axes.bar_label(drawn, fmt="%.2f", color=INK, padding=2, size=9)
        return drawn
    faint, alone = series.style == "faint", series.style == "marks"
    (line,) = axes.plot(
        x,
        y,
        color=color,
        linewidth=1 if faint else 1.8,
        alpha=0.6 if faint else 1,
        linestyle="" if alone else "--" if hue // len(PALETTE) % 2 else "-",
        marker="o" if alone or series.style == "marked" else "",
        markersize=3.5,
        markevery=max(1, math.ceil(len(x) / _MARKS)),
        clip_on=not alone,
    )
    return line


def _limit(axes: Axes, chart: Chart) -> None:
    """Scales, limits and ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xscale("log" if chart.log_x else "linear")
    axes.set_yscale("log" if chart.log_y else "linear")
    points = [chart.points(series) for series in chart.series]
    ys = [y for _, values in points for y in values] + [level.y for level in chart.drawn_levels()]
    top = chart.y_top
    if top is not None and ys and min(ys) < top < max(ys) and not chart.log_y:
        axes.set_ylim(min(ys) - 0.06 * (top - min(ys)), top)
    elif any(series.style == "bars" for series in chart.series):
        axes.margins(y=0.12)
    axes.margins(x=0.02)
    _ticks(axes.xaxis, chart.log_x)
    _ticks(axes.yaxis, chart.log_y)
    if any(series.style == "bars" for series in chart.series):
        axes.xaxis.set_major_locator(MaxNLocator(_NUMBERED_BARS, integer=True))


def _ticks(axis: Axis, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if log else 0.0
    wide = decades >= 2.5
    axis.set_major_locator(
        LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=9) if decades > 0.7 else MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_formatter(NullFormatter())


def tick(value: float) -> str:
    """The label of a tick: ``0.5``, ``2000``, ``15M``."""
    for size, prefix in PREFIXES:
        if abs(value) >= size * (10 if size == 1e3 else 1):
            return f"{value / size:.6g}{prefix}"
    return f"{0.0 if abs(value) < 1e-12 else value:.6g}"


def _levels(axes: Axes, chart: Chart) -> None:
    """Dashed lines, each with its label to the right of the plot, moved up where labels would cover each other."""
    levels, below = sorted(chart.drawn_levels(), key=lambda level: level.y), -math.inf
    for level in levels:
        axes.axhline(level.y, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        _, height = axes.transAxes.inverted().transform(axes.transData.transform((axes.get_xlim()[0], level.y)))
        below = max(height, below + LABEL_GAP)
        words = f"{_name(level.name, 20)} {level.y:.2f}"
        axes.text(1.015, below, words, transform=axes.transAxes, color=MUTED, size=9, va="center")


def _drawable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _name(name: str, most: int = _LONGEST) -> str:
    name = visible(name, keep="")
    return name if len(name) <= most else name[: most - 1] + "…"
