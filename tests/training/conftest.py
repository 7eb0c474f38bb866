"""A small model, a small corpus and configs for short runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from subquad.data.corpus import Corpus
from subquad.training.config import TrainConfig, build_config
from subquad.training.trainer import Hooks, Trainer, build_run

STACK = {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2, "dropout": 0.1}, "dropout": 0.1}
MODEL = {"kind": "megabyte", "vocab": 256, "max_len": 32, "patch_size": 4, "stages": [STACK, {**STACK, "dim": 8}]}

MakeConfig = Callable[..., TrainConfig]
MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    path = tmp_path / "book.txt"
    path.write_bytes(b"".join(b"%d bottles of beer on the wall. " % number for number in range(99, 0, -1)))
    return Corpus.open([path])


@pytest.fixture
def make_config(corpus: Corpus) -> MakeConfig:
    def make(changes: dict[str, Any] | None = None) -> TrainConfig:
        values = {"model": MODEL, "data": {"paths": corpus.paths}, "steps": 12, "batch": 4, "accumulate": 2, "dtype": "float32"}
        short = {"eval.every": 4, "save.every": 4, "eval.windows": 8, "device": "cpu"}
        return build_config(values, short | (changes or {}))

    return make


@pytest.fixture
def make_trainer(corpus: Corpus, make_config: MakeConfig) -> MakeTrainer:
    def make(out: Path, changes: dict[str, Any] | None = None, hooks: Hooks | None = None, config: TrainConfig | None = None) -> Trainer:
        config = config or make_config(changes)
        return Trainer(*build_run(config), config, out, hooks or Hooks(quiet=True))

    return make
