"""Subquad: sequence models on bytes whose cost grows slower than the square of the length.

``import subquad`` is cheap: the names below live in ``subquad.api`` and are fetched, and torch with them, at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subquad.api import Score, build, generate, load, presets, save, score, stream, train

__version__ = "0.1.0"

__all__ = ["Score", "__version__", "build", "generate", "load", "presets", "save", "score", "stream", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'subquad' has no attribute {name!r}")
    value = getattr(importlib.import_module("subquad.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
