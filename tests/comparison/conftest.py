"""A small experiment on a text of a few kilobytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subquad.comparison.experiment import Experiment
from subquad.config import parse

TINY = {"stack.dim": 16, "max_len": 32}
TINY_MEGABYTE = {"stages.0.dim": 16, "stages.1.dim": 16, "max_len": 32}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(b"".join(b"line %d of a text that a model can learn\n" % number for number in range(300)))
    return path


@pytest.fixture
def values(text: Path) -> dict[str, Any]:
    return {
        "title": "A small one",
        "about": "Shows that it works.",
        "models": {
            "megabyte": {"preset": "megabyte-tiny", "set": TINY_MEGABYTE, "lr": 0.01},
            "transformer": {"preset": "transformer-tiny", "set": TINY},
        },
        "data": {"text": {"paths": [str(text)], "score_bytes": 200}},
        "budget": {"bytes": 640},
        "seeds": [0, 1],
        "rates": {"among": [0.001, 0.01], "data": "text", "share": 0.5},
        "train": {"batch": 2, "threads": 1, "dtype": "float32", "device": "cpu", "schedule.warmup": 2},
        "score": ["basic", "strided"],
    }


@pytest.fixture
def experiment(values: dict[str, Any]) -> Experiment:
    return parse(Experiment, values)
