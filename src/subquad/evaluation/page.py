"""Pieces of a self-contained HTML page: style, sections, tables, figures and texts, with no script and nothing to fetch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from subquad.evaluation.charts import (
    DARK_GRID,
    DARK_INK,
    DARK_MUTED,
    DARK_PALETTE,
    DARK_PAPER,
    FONT,
    GRID,
    INK,
    MUTED,
    PALETTE,
    PAPER,
    Chart,
    svg,
)
from subquad.evaluation.markup import escape
from subquad.evaluation.passage import passage_style


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """A whole page: the title, one line under it (both plain text) and the sections (HTML)."""
    body = "\n".join(section for section in sections if section)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="subquad">
<title>{escape(title)}</title>
<style>
{_style()}
</style>
</head>
<body>
<main>
<header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>
{body}
</main>
</body>
</html>
"""


def section(title: str, *content: str, note: str = "") -> str:
    """A titled part of a page; empty when none of its content is there."""
    inside = "\n".join(part for part in content if part)
    words = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{words}\n{inside}\n</section>" if inside else ""


def figures(values: Sequence[tuple[str, str, str]]) -> str:
    """Headline figures: (label, value, unit in small print)."""
    rows = [(escape(name), escape(value), escape(unit)) for name, value, unit in values]
    cards = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>" for name, value, unit in rows)
    return f'<dl class="figures">{cards}</dl>' if cards else ""


def picture(chart: Chart) -> str:
    """A chart in a section that carries its title."""
    return f"<figure>{svg(chart, heading=False)}</figure>"


def grid(cells: Iterable[str]) -> str:
    """Cells side by side where the window is wide enough."""
    inside = "".join(f"<div>{cell}</div>" for cell in cells)
    return f'<div class="grid">{inside}</div>' if inside else ""


def text_card(caption: str, text: str) -> str:
    """A text as it is, under its caption."""
    return f"<h3>{escape(caption)}</h3><pre>{escape(text)}</pre>"


def folded(title: str, text: str) -> str:
    """A long text that opens on request; nothing where there is none."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if text else ""


def folded_json(title: str, value: Any) -> str:
    """A JSON value that opens on request."""
    return folded(title, json.dumps(value, indent=2, ensure_ascii=False)) if value else ""


def ranking(header: Sequence[str], rows: Sequence[tuple[Sequence[str], float, int | None]]) -> str:
    """A table with a bar for each row's number.

    A row is its cells (the first is its name, the second the number in words), the number, and the colour of its bar: an index of the
    palette, or None for grey.
    """
    most = max((value for _, value, _ in rows), default=1.0) or 1.0
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = []
    for cells, value, hue in rows:
        color = "var(--muted)" if hue is None else f"var(--c{hue % len(PALETTE)})"
        bar = f'<span class="bar"><b style="width:{100 * value / most:.1f}%;background:{color}"></b></span>'
        rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells[2:])
        body.append(f'<tr><th scope="row">{escape(cells[0])}</th><td>{escape(cells[1])}{bar}</td>{rest}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ``header`` (plain text) and cells (HTML); the first cell of a row is its name. Nothing without rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    body = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def counted(number: float, unit: str = "") -> str:
    """A count with three figures: ``3.41 M``, ``164 kB``, ``12 B``."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {prefix}{unit}"
    return f"{number:.0f} {unit}".strip()


def duration(seconds: float) -> str:
    """A time in two units: ``12.3 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _variables(ink: str, muted: str, grid_color: str, paper: str, ground: str, heat: str, palette: Sequence[str]) -> str:
    hues = "".join(f"--c{index}:{color};" for index, color in enumerate(palette))
    return f"--ink:{ink};--muted:{muted};--rule:{grid_color};--paper:{paper};--ground:{ground};--heat:{heat};{hues}"


def _style() -> str:
    light = _variables(INK, MUTED, GRID, PAPER, "#f4f5f7", "232 93 4", PALETTE)
    dark = _variables(DARK_INK, DARK_MUTED, DARK_GRID, DARK_PAPER, "#0d1117", "224 82 12", DARK_PALETTE)
    return f""":root{{color-scheme:light dark;{light}}}
@media (prefers-color-scheme:dark){{:root{{{dark}}}}}
{_RULES.replace("FONT", FONT)}
{passage_style()}"""


_RULES = """*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.55 FONT}
main{max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
header{margin-bottom:1.5rem}
h1{font-size:1.75rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:0 0 .5rem}
h3{font-size:.85rem;font-weight:600;color:var(--muted);margin:0 0 .35rem}
header p,.note,.source,.key{color:var(--muted)}
.source{font-size:.85rem;margin:0 0 .5rem}
.passage+.source{margin:.5rem 0 0}
header p,.note{margin:0 0 .75rem;max-width:46rem}
section{background:var(--paper);border:1px solid var(--rule);border-radius:10px;padding:1.25rem 1.4rem;margin:0 0 1.1rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:1rem 1.5rem;margin:0}
.figures dt{font-size:.8rem;color:var(--muted)}
.figures dd{margin:0;font-size:1.45rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.3}
.figures small{font-size:.8rem;font-weight:400;color:var(--muted)}
figure{margin:0 -.9rem}
figure svg{display:block;width:100%;height:auto}
figure+figure{margin-top:.75rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,23rem),1fr));gap:1.2rem}
.grid>div{min-width:0}
pre,.passage,code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
pre{margin:0;font-size:.82rem;line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere;max-height:24rem;overflow:auto}
pre{background:var(--ground);border-radius:6px;padding:.7rem .85rem}
.passage{font-size:.86rem;line-height:1.75;white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4}
.passage span{unicode-bidi:isolate;padding:.12em 0}
.passage .edge{box-shadow:inset 1px 0 var(--edge)}
.passage .within{box-shadow:inset 0 -1px var(--edge)}
.passage .code{color:color-mix(in srgb,var(--ink) 70%,transparent)}
.passage,.key{--edge:color-mix(in srgb,var(--ink) 45%,transparent)}
.key{display:flex;flex-wrap:wrap;align-items:center;gap:.3rem .6rem;font-size:.82rem;margin:0 0 .9rem}
.ramp{display:inline-flex;border:1px solid var(--rule);border-radius:3px;overflow:hidden}
.ramp i{width:9px;height:.9rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.5rem 1rem .5rem 0;border-bottom:1px solid var(--rule);white-space:nowrap}
tbody th{font-weight:600}
thead th{font-size:.8rem;font-weight:500;color:var(--muted);white-space:normal;vertical-align:bottom}
tr:last-child>*{border-bottom:0}
td code,th code{font-weight:400;background:var(--ground);border-radius:4px;padding:.1rem .3rem;white-space:pre-wrap;overflow-wrap:anywhere}
td .text{white-space:normal;overflow-wrap:anywhere}
ul{margin:.6rem 0;padding-left:1.2rem}
h3:not(:first-child){margin-top:1rem}
pre+pre{margin-top:.4rem}
section>p{margin:0 0 .75rem;max-width:46rem}
.bar{display:inline-block;width:11rem;max-width:22vw;margin-left:.7rem;vertical-align:middle}
.bar b{display:block;height:.6rem;border-radius:3px}
details{border-top:1px solid var(--rule);padding:.55rem 0}
details:last-child{padding-bottom:0}
summary{cursor:pointer;font-weight:500}
details pre{margin:.5rem 0 .2rem}
pre+details{margin-top:1rem}
@media print{body{background:none}section{break-inside:avoid}pre{max-height:none}}"""
