"""Charts: one frozen description, drawn as SVG by the standard library alone or as PNG by matplotlib.

Both renderers share the ticks, the limits, the palette (Okabe and Ito's, told apart by colour-blind readers) and the order of things,
so the two pictures of a chart say the same.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from subquad.evaluation.axes import Axis, bar_axis, bar_step, spread, thinned, value_axis
from subquad.evaluation.markup import escape
from subquad.system import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9")
DARK_PALETTE = ("#58b3f0", "#ff8a4c", "#2bc296", "#e29ac2", "#e6b800", "#9ad4ff")
INK, MUTED, GRID, PAPER = "#1f2328", "#656d76", "#e4e7eb", "#ffffff"
DARK_INK, DARK_MUTED, DARK_GRID, DARK_PAPER = "#e6edf3", "#9198a1", "#30363d", "#161b22"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"

Style = Literal["line", "marked", "marks", "faint", "bars"]

WIDTH, HEIGHT = 760, 400
LEFT, BOTTOM, LEVEL_ROOM, RIGHT = 52, 52, 164, 24


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
            raise ValueError(f"series {self.name!r} has {len(self.x)} x and {len(self.y)} y: give one y for every x")


@dataclass(frozen=True)
class Level:
    """A named horizontal line to compare with, labelled at its right end."""

    name: str
    y: float


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    ``y_top`` cuts the y axis there when points lie above it. ``note`` is a sentence for readers who cannot see the picture. A point that
    is not finite, or not positive on a log axis, is left out.
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

    @property
    def barred(self) -> bool:
        """Whether any series is drawn as bars."""
        return any(series.style == "bars" for series in self.series)

    def look(self, index: int) -> tuple[int, bool]:
        """The colour of a series, as a place in the palette, and whether it is dashed because all colours are taken before it."""
        hue = self.series[index].hue
        hue = index if hue is None else hue
        return hue % len(PALETTE), hue // len(PALETTE) % 2 == 1

    def points(self, series: Series) -> list[tuple[float, float]]:
        """The points of a series that can be drawn."""
        pairs = [(float(x), float(y)) for x, y in zip(series.x, series.y, strict=True)]
        return [(x, y) for x, y in pairs if _drawable(x, self.log_x) and _drawable(y, self.log_y)]

    def drawn_levels(self) -> list[Level]:
        """The levels that can be drawn."""
        return [level for level in self.levels if _drawable(level.y, self.log_y)]

    def described(self) -> str:
        """The chart in words: the note, then where each series starts and ends."""
        drawn = [(series.name, self.points(series)) for series in self.series]
        ends = [f"{name} from {line[0][1]:.4g} to {line[-1][1]:.4g}" for name, line in drawn if line]
        ends += [f"{level.name} at {level.y:.4g}" for level in self.drawn_levels()]
        return f"{self.note} {self.y_label} by {self.x_label}: {', '.join(ends) or 'no data'}.".strip()

    def axes(self) -> tuple[Axis, Axis]:
        """The x and the y axis that hold everything shown."""
        points = [point for series in self.series for point in self.points(series)]
        xs, ys = [x for x, _ in points], [y for _, y in points] + [level.y for level in self.drawn_levels()]
        if self.barred and xs:
            return bar_axis(xs), value_axis([0.0, *ys, 1.08 * max(ys)])  # room for the number above the highest bar
        if self.y_top is not None and ys and max(ys) > self.y_top:
            ys = [y for y in ys if y <= self.y_top] + [self.y_top]
        if xs and not self.log_x:
            # From zero where that costs little room, and a little further than the last point, whose mark is round.
            xs = [0.0 if 0 <= min(xs) < 0.25 * max(xs) else min(xs), max(xs) + 0.01 * (max(xs) - min(xs))]
        return value_axis(xs, self.log_x, tight=True), value_axis(ys, self.log_y)


def svg(chart: Chart, heading: bool = True) -> str:
    """The chart as one ``<svg>`` element: no script, no network, readable alone or inside a page, dark where the reader's screen is.

    Without ``heading`` the strip with the title is cut off, for a page that says it above the picture; screen readers hear it still.
    """
    frame, cut = _Frame.of(chart), 0 if heading else 34
    key = f"chart-{zlib.crc32(repr(chart).encode('utf-8', 'backslashreplace')):08x}"
    box = f'x="{frame.left}" y="{frame.top}" width="{frame.width}" height="{frame.height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sq" viewBox="0 {cut} {WIDTH} {HEIGHT - cut}"'
        f' width="{WIDTH}" height="{HEIGHT - cut}"'
        f' role="img" aria-labelledby="{key}-t {key}-d" font-family="{FONT}" font-size="13">',
        f'<title id="{key}-t">{escape(chart.title)}</title><desc id="{key}-d">{escape(chart.described())}</desc>',
        f"<style>{_style()}</style>",
        f'<clipPath id="{key}-c"><rect {box}/></clipPath>',
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{PAPER}"/>',
        _text(20, 29, chart.title, "ink", ' font-size="16" font-weight="600"') if heading else "",
        _text(20, frame.top - 14, chart.y_label),
        _text(WIDTH - RIGHT, HEIGHT - 12, chart.x_label, more=' text-anchor="end"'),
        *_legend(chart),
        *_grid(frame),
        f'<g clip-path="url(#{key}-c)">',
        *(part for index in range(len(chart.series)) for part in _series(frame, index)),
        "</g>",
        *_figures(frame),
        *_dots(frame),
        *_levels(frame),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def png(chart: Chart, path: Path) -> Path:
    """Writes the chart as a PNG of 1520 x 800 pixels; needs matplotlib, whose global state stays as it is."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise ValueError("a PNG chart needs matplotlib, which is not installed: pip install 'subquad[plot]'") from None
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=200, facecolor=PAPER)
    FigureCanvasAgg(figure)
    frame = _Frame.of(chart)
    bottom = HEIGHT - frame.top - frame.height
    plot = figure.add_axes((frame.left / WIDTH, bottom / HEIGHT, frame.width / WIDTH, frame.height / HEIGHT))
    _dress(plot, frame)
    if frame.empty:
        plot.text(0.5, 0.5, "no data", transform=plot.transAxes, ha="center", color=MUTED)
    for index in range(len(chart.series)):
        _plot(plot, chart, index)
    for level, y in frame.level_places():
        plot.axhline(level.y, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        label = _level_label(level)
        figure.text(1 - (LEVEL_ROOM - 8) / WIDTH, 1 - y / HEIGHT, label, fontsize=9, color=MUTED, va="center", parse_math=False)
    figure.text(20 / WIDTH, 1 - 24 / HEIGHT, chart.title, fontsize=11.5, fontweight="bold", color=INK, va="center", parse_math=False)
    figure.text(20 / WIDTH, 1 - (frame.top - 18) / HEIGHT, chart.y_label, fontsize=9, color=MUTED, va="center", parse_math=False)
    figure.text(1 - RIGHT / WIDTH, 16 / HEIGHT, chart.x_label, fontsize=9, color=MUTED, ha="right", va="center", parse_math=False)
    for index, (x, y, name) in enumerate(_legend_places(chart)):
        (hue, dashed), height, alone = chart.look(index), 1 - y / HEIGHT, chart.series[index].style == "marks"
        ends, line = [(x + 10) / WIDTH] if alone else [x / WIDTH, (x + 20) / WIDTH], "--" if dashed else "-"
        key = Line2D(ends, [height] * len(ends), color=PALETTE[hue], lw=2.5, ls=line, marker="o" if alone else "", ms=5)
        figure.add_artist(key)
        figure.text((x + 26) / WIDTH, height, name, fontsize=9, color=INK, va="center", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
    return path


@dataclass(frozen=True)
class _Frame:
    """Where the plot lies in the picture, in pixels of the SVG."""

    chart: Chart
    x: Axis
    y: Axis
    left: int
    top: float
    width: float
    height: float

    @classmethod
    def of(cls, chart: Chart) -> _Frame:
        top = max((y + 45 for _, y, _ in _legend_places(chart)), default=74.0)
        right = LEVEL_ROOM if chart.drawn_levels() else RIGHT
        return cls(chart, *chart.axes(), LEFT, top, WIDTH - LEFT - right, HEIGHT - top - BOTTOM)

    @property
    def empty(self) -> bool:
        return not any(self.chart.points(series) for series in self.chart.series)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.left + self.width * self.x.place(x), self.top + self.height * (1 - self.y.place(y))

    def level_places(self) -> list[tuple[Level, float]]:
        """Each level inside the axis and the height of its label, moved where labels would cover each other."""
        levels = [level for level in self.chart.drawn_levels() if level.y <= self.y.high]
        heights = spread([-self.at(self.x.low, level.y)[1] for level in levels], 15)
        return [(level, -height) for level, height in zip(levels, heights, strict=True)]


def _style() -> str:
    """The dark colours; the light ones are attributes, so a viewer without style sheets shows the light picture."""
    dark = [("paper", "fill", DARK_PAPER), ("ink", "fill", DARK_INK), ("muted", "fill", DARK_MUTED), ("line", "stroke", DARK_MUTED)]
    dark += [("grid", "stroke", DARK_GRID)]
    for hue, color in enumerate(DARK_PALETTE):
        dark += [(f"s{hue}", "stroke", color), (f"f{hue}", "fill", color)]
    rules = "".join(f".sq .{name}{{{key}:{value}}}" for name, key, value in dark)
    return f"@media (prefers-color-scheme:dark){{{rules}}}"


def _text(x: float, y: float, text: str, kind: str = "muted", more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" fill="{INK if kind == "ink" else MUTED}"{more}>{escape(text)}</text>'


def _legend_places(chart: Chart) -> list[tuple[float, float, str]]:
    """Where each entry of the legend starts, row after row; one series needs no legend."""
    places: list[tuple[float, float, str]] = []
    x, y = 20.0, 51.0
    for name in [_short(series.name) for series in chart.series] if len(chart.series) > 1 else []:
        room = 48 + 7.6 * len(name)
        if x + room > WIDTH and x > 20:
            x, y = 20.0, y + 20
        places.append((x, y, name))
        x += room
    return places


def _legend(chart: Chart) -> list[str]:
    parts = []
    for index, (x, y, name) in enumerate(_legend_places(chart)):
        hue, dashed = chart.look(index)
        if chart.series[index].style == "marks":
            parts.append(f'<circle class="f{hue}" cx="{x + 10:.1f}" cy="{y}" r="4.5" fill="{PALETTE[hue]}"/>')
        else:
            line = f'stroke="{PALETTE[hue]}" stroke-width="3"{_dash(dashed)}'
            parts.append(f'<line class="s{hue}" x1="{x:.1f}" x2="{x + 20:.1f}" y1="{y}" y2="{y}" {line}/>')
        parts.append(_text(x + 26, y + 4.5, name, "ink"))
    return parts


def _grid(frame: _Frame) -> list[str]:
    parts, (right, bottom) = [], (frame.left + frame.width, frame.top + frame.height)
    if frame.empty:
        parts.append(_text((frame.left + right) / 2, (frame.top + bottom) / 2, "no data", more=' text-anchor="middle"'))
    for value in frame.y.minor:
        y = frame.at(frame.x.low, value)[1]
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}" stroke-opacity="0.5"/>')
    for value in frame.x.minor:
        x = frame.at(value, frame.y.low)[0]
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{bottom}" stroke="{GRID}" stroke-opacity="0.5"/>')
    for value, label in zip(frame.y.ticks, frame.y.labels, strict=True):
        y = frame.at(frame.x.low, value)[1]
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(frame.left - 8, y + 4.5, label, more=' text-anchor="end"'))
    for value, label in zip(frame.x.ticks, frame.x.labels, strict=True):
        x = frame.at(value, frame.y.low)[0]
        if not frame.chart.barred:
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{bottom}" stroke="{GRID}"/>')
        parts.append(_text(x, bottom + 19, label, more=' text-anchor="middle"'))
    parts.append(f'<line class="line" x1="{frame.left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="{MUTED}"/>')
    return parts


def _series(frame: _Frame, index: int) -> list[str]:
    series, (hue, dashed) = frame.chart.series[index], frame.chart.look(index)
    points = frame.chart.points(series)
    if series.style == "bars":
        return _bars(frame, series.name, hue, points)
    places = [frame.at(x, y) for x, y in thinned(points)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    if not line or series.style == "marks":
        return []
    width = 'stroke-width="1.2" stroke-opacity="0.6"' if series.style == "faint" else 'stroke-width="2.2"'
    look = f'stroke="{PALETTE[hue]}" {width}{_dash(dashed)} stroke-linejoin="round"'
    return [f'<polyline class="s{hue}" points="{line}" fill="none" {look}/>']


def _bars(frame: _Frame, name: str, hue: int, points: list[tuple[float, float]]) -> list[str]:
    width, parts = 0.72 * bar_step([x for x, _ in points]) / (frame.x.high - frame.x.low) * frame.width, []
    for x, y in points:
        (middle, top), zero = frame.at(x, max(y, 0.0)), frame.at(x, min(y, 0.0))[1]
        shape = f'x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{zero - top:.1f}" rx="{min(3, width / 4):.1f}"'
        parts.append(f'<rect class="f{hue}" {shape} fill="{PALETTE[hue]}"><title>{escape(f"{name} {x:g}: {y:.3f}")}</title></rect>')
    return parts


def _figures(frame: _Frame) -> list[str]:
    """The number above each bar, where there is room for one."""
    parts = []
    for points in [frame.chart.points(series) for series in frame.chart.series if series.style == "bars"]:
        for x, y in points if len(points) <= 16 else []:
            left, top = frame.at(x, max(y, 0.0))
            parts.append(_text(left, top - 6, f"{y:.2f}", "ink", ' text-anchor="middle" font-size="12"'))
    return parts


def _dots(frame: _Frame) -> list[str]:
    """The marks of marked series, each with its values as a tooltip; outside the clip, so a mark on the edge stays round."""
    parts = []
    for index, series in enumerate(frame.chart.series):
        hue, _ = frame.chart.look(index)
        points = frame.chart.points(series) if series.style in ("marked", "marks") else []
        for x, y in points[:: _every(len(points))]:
            if frame.y.low <= y <= frame.y.high:
                (left, top), words = frame.at(x, y), escape(f"{series.name}: {y:.4g} at {x:,.4g}")
                dot = f'<circle class="f{hue}" cx="{left:.1f}" cy="{top:.1f}" r="3.6" fill="{PALETTE[hue]}">'
                parts.append(f"{dot}<title>{words}</title></circle>")
    return parts


def _levels(frame: _Frame) -> list[str]:
    parts, right = [], frame.left + frame.width
    for level, label in frame.level_places():
        y = frame.at(frame.x.low, level.y)[1]
        dash = f'stroke="{MUTED}" stroke-width="1.2" stroke-dasharray="5 4"'
        parts.append(f'<line class="line" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" {dash}/>')
        parts.append(_text(right + 8, label + 4, _level_label(level), more=' font-size="12"'))
    return parts


def _dress(plot: Axes, frame: _Frame) -> None:
    plot.set_xscale("log" if frame.x.log else "linear")
    plot.set_yscale("log" if frame.y.log else "linear")
    plot.set(xlim=(frame.x.low, frame.x.high), ylim=(frame.y.low, frame.y.high))
    plot.set_xticks(frame.x.ticks, frame.x.labels)
    plot.set_yticks(frame.y.ticks, frame.y.labels)
    plot.minorticks_off()
    plot.set_xticks(frame.x.minor, minor=True)
    plot.set_yticks(frame.y.minor, minor=True)
    plot.tick_params(which="both", length=0, labelsize=9, labelcolor=MUTED)
    plot.grid(axis="y" if frame.chart.barred else "both", color=GRID, linewidth=0.8)
    plot.grid(which="minor", color=GRID, linewidth=0.5, alpha=0.5)
    plot.set_axisbelow(True)
    for side, spine in plot.spines.items():
        spine.set(visible=side == "bottom", color=MUTED)


def _plot(plot: Axes, chart: Chart, index: int) -> None:
    series, (hue, dashed) = chart.series[index], chart.look(index)
    color = PALETTE[hue]
    points = chart.points(series)
    x, y = [point[0] for point in points], [point[1] for point in points]
    if series.style == "bars":
        bars = plot.bar(x, y, width=0.72 * bar_step(x), color=color)
        if len(points) <= 16:
            plot.bar_label(bars, fmt="%.2f", fontsize=8.5, color=INK, padding=2)
        return
    faint, marker = series.style == "faint", "o" if series.style in ("marked", "marks") else ""
    lines = plot.plot(x, y, color=color, lw=1 if faint else 1.8, alpha=0.6 if faint else 1, marker=marker, ms=4, markevery=_every(len(x)))
    lines[0].set_linestyle("" if series.style == "marks" else "--" if dashed else "-")


def _dash(dashed: bool) -> str:
    return ' stroke-dasharray="7 4"' if dashed else ""


def _every(count: int, most: int = 60) -> int:
    """Which every n-th point gets a mark, so that marks do not run together."""
    return max(1, math.ceil(count / most))


def _drawable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _level_label(level: Level) -> str:
    return f"{_short(level.name, 16)} {level.y:.2f}"


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
