"""Subquad: sequence models on bytes whose cost grows more slowly than the square of the length.

``import subquad`` is cheap: the names below live in ``subquad.api`` and ``subquad.comparison`` and are fetched, and torch with them, at
first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subquad.api import (
        Answers,
        Classified,
        Score,
        answer,
        build,
        classify,
        convert,
        embed,
        extend_context,
        from_official,
        generate,
        load,
        presets,
        regress,
        save,
        score,
        stream,
        train,
    )
    from subquad.comparison.runner import compare

__version__ = "0.1.0"

__all__ = [
    "Answers",
    "Classified",
    "Score",
    "__version__",
    "answer",
    "build",
    "classify",
    "compare",
    "convert",
    "embed",
    "regress",
    "from_official",
    "generate",
    "extend_context",
    "load",
    "presets",
    "save",
    "score",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'subquad' has no attribute {name!r}")
    module = "subquad.comparison.runner" if name == "compare" else "subquad.api"
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
