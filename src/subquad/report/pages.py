"""Self-contained pages from Jinja2 templates: every text is escaped, figures and style are inside, nothing is fetched, no script runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subquad.format import visible
from subquad.report.figures import COLORS, NEEDS
from subquad.report.passages import FULL_BITS, LEVELS, LONGEST, coloured
from subquad.system import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment

LIGHT = COLORS | {"ground": "#f4f5f7", "heat": "232 93 4"}
DARK = {"ink": "#e6edf3", "muted": "#9198a1", "rule": "#30363d", "paper": "#161b22", "ground": "#0d1117", "heat": "224 82 12"}
DARK |= {"c0": "#58b3f0", "c1": "#ff8a4c", "c2": "#2bc296", "c3": "#e29ac2", "c4": "#e6b800", "c5": "#9ad4ff"}


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> Path:
    """Fills a template with ``values`` and writes the page; returns ``path``."""
    write_atomic(path, environment().get_template(template).render(values).encode())
    return path


@cache
def environment() -> Environment:
    """The templates of this folder, with every text that they show made visible and escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(loader=PackageLoader("subquad.report"), autoescape=True, undefined=StrictUndefined, finalize=_shown)
    pages.trim_blocks = pages.lstrip_blocks = True
    pages.filters |= {"coloured": coloured, "pretty": _pretty}
    pages.globals |= {"light": LIGHT, "dark": DARK, "levels": LEVELS, "full_bits": FULL_BITS, "longest": LONGEST, "needs_matplotlib": NEEDS}
    return pages


def _shown(value: object) -> object:
    return visible(value, "\n\t") if type(value) is str else value  # a Markup is a part of a page already


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
