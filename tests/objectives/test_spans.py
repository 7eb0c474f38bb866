"""Training of a model that draws the span a step learns: it learns, the log counts what it learned, a resumed run is the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import subquad
from subquad.training.config import read
from tests.training.conftest import MakeTrainer
from tests.training.logs import read_log
from tests.training.test_trainer import assert_same, losses, stopping_at

STACK = {"dim": 16, "depth": 1, "mixer": {"heads": 2, "rotary_fraction": 0.5, "dropout": 0.1}, "dropout": 0.1}
MODEL = {"kind": "perceiver_ar", "max_len": 32, "latents": 8, "stack": STACK, "init_std": 0.1}


def learned(run: Path) -> list[int]:
    """Bytes that each step learned."""
    totals = [0, *(record["bytes"] for record in read_log(run) if record["kind"] == "train")]
    return [after - before for before, after in zip(totals, totals[1:], strict=False)]


def test_it_learns_from_one_window_a_step(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_bytes(b"".join(b"%d bottles of beer on the wall. " % number for number in range(300, 0, -1)))
    options: dict[str, Any] = {"steps": 150, "batch": 8, "dtype": "float32", "eval.every": 150, "save.every": 150, "eval.windows": 16}
    run = subquad.train(MODEL, str(book), tmp_path / "run", {**options, "data.shift": False, "device": "cpu"})
    valid = losses(Path(run), "valid")[150]
    assert valid < 5
    assert set(learned(Path(run))) == {8 * 8}
    scored = subquad.score(subquad.load(run), book.read_bytes()[:200]).bits_per_byte
    assert scored is not None and scored < 5.5


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16", "checkpoint_activations": True}])
def test_a_resumed_run_equals_the_uninterrupted_one(changes: dict[str, Any], tmp_path: Path, make_trainer: MakeTrainer) -> None:
    whole, parts, changes = tmp_path / "whole", tmp_path / "parts", {**changes, "model": MODEL}
    make_trainer(whole, changes).run()
    assert make_trainer(parts, changes, stopping_at(4)).run().reason == "interrupted"
    torch.rand(7)
    assert make_trainer(parts, config=read(parts)).run(resume=True).reason == "finished"
    assert_same(whole, parts)
