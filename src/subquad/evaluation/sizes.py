"""Parameters and FLOPs per byte of the presets, counted once and kept in sizes.json, as counting them all takes ten seconds.

``python -m subquad.evaluation.sizes`` counts them again; a test says when that is due.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from subquad.evaluation.flops import count_flops, count_parameters, skeleton
from subquad.models import presets
from subquad.models.base import ModelConfig
from subquad.parsing import parse_json, read_text
from subquad.system import as_json, write_atomic

FILE = Path(__file__).with_suffix(".json")


def size_of(config: ModelConfig) -> dict[str, float]:
    """``parameters``, and ``flops_per_byte`` of a forward pass at the full context; counted where the file does not have the config."""
    return _counted().get(_digest(config)) or count(config)


def count(config: ModelConfig) -> dict[str, float]:
    """The same, counted."""
    return {"parameters": count_parameters(skeleton(config)), "flops_per_byte": count_flops(config).total}


@cache
def _counted() -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, Any]] = parse_json(read_text(FILE))
    return {row.pop("config"): row for row in values.values()}


def _digest(config: ModelConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def main() -> None:
    """Writes the file."""
    write_atomic(FILE, as_json({name: {"config": _digest(config), **count(config)} for name, config in presets().items()}))


if __name__ == "__main__":
    main()
