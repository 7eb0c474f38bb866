"""A whole comparison: what it leaves, and that a failing, diverging or killed one loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from subquad.comparison.experiment import Experiment
from subquad.comparison.results import Outcome
from subquad.comparison.runner import compare
from subquad.config import parse

TIMED = {"training_seconds", "curve", "command"}


def settled(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on when and where a comparison ran."""
    return [{key: value for key, value in outcome.items() if key not in TIMED} for outcome in outcomes]


def test_a_comparison_fills_its_table_and_another_seed_changes_it(experiment: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = compare(experiment, out, quiet=True, jobs=2, command="subquad compare a.yaml")
    assert {outcome.status for outcome in results.outcomes} == {"done"}
    for model in results.models:
        first, second = results.bits(model, "text")
        assert 0 < first < 8.5 and first != second
    one = results.finals("megabyte", "text")[0]
    assert one.bits.keys() == {"basic", "strided"} and len(one.inside) == 4
    assert one.training_bytes == 640 and one.curve[-1][2] == 640
    assert one.training_flops == pytest.approx(640 * (one.training_flops_per_byte or 0))
    assert one.state_bytes and one.peak_bytes and one.serial_steps == pytest.approx(2 + 2 / 4)
    saved = json.loads((out / "results.json").read_text())
    assert saved["outcomes"] == json.loads(json.dumps(results.record()["outcomes"]))
    assert (out / "results.csv").read_text().count("\n") == len(results.outcomes) + 1
    assert "A small one" in (out / "report.html").read_text()
    assert any("learning rate" in note for note in results.notes)
    again = compare(experiment, out, resume=True, jobs=0, quiet=True)
    assert again.outcomes == results.outcomes


def test_cells_that_fail_or_diverge_leave_the_others_alone(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"seeds": [0], "rates": None, "score": ["basic"]}
    values["data"]["missing"] = {"paths": [str(tmp_path / "none.txt")]}
    values["models"]["transformer"] |= {"lr": 1e30, "train": {"optim.clip": None}}
    results = compare(parse(Experiment, values), tmp_path / "out", jobs=0, quiet=True)
    found = {outcome.cell: outcome for outcome in results.outcomes}
    assert found["text/megabyte-seed0"].status == "done"
    diverged = found["text/transformer-seed0"]
    assert diverged.status == "diverged" and diverged.step is not None
    assert f"diverged at step {diverged.step}" in (tmp_path / "out" / "report.html").read_text()
    assert found["missing/megabyte-seed0"].status == "failed" and "none.txt" in found["missing/megabyte-seed0"].error
    (tmp_path / "none.txt").write_bytes((tmp_path / "text.txt").read_bytes())
    mended = {
        outcome.cell: outcome for outcome in compare(parse(Experiment, values), tmp_path / "out", resume=True, jobs=0, quiet=True).outcomes
    }
    assert mended["missing/megabyte-seed0"].status == "done"
    assert mended["text/megabyte-seed0"] == found["text/megabyte-seed0"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_comparison_resumes_to_the_same_table(values: dict[str, Any], tmp_path: Path, number: signal.Signals) -> None:
    values |= {"seeds": [0], "rates": None, "budget": {"bytes": 64 * 120}, "train": values["train"] | {"save.every": 10}}
    whole = compare(parse(Experiment, values), tmp_path / "whole", jobs=0, quiet=True)
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "subquad", "compare", str(file), "--out", str(out)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    state = out / "cells" / "text" / "megabyte-seed0" / "run" / "state"
    deadline = time.monotonic() + 120
    while not (state.is_dir() and any(path.name.startswith("step") for path in state.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode not in (0, 1, 2)
    if number == signal.SIGTERM:
        assert b"--resume" in error
    time.sleep(3)  # an orphan notices within a second, saves and ends
    resumed = compare(parse(Experiment, values), out, resume=True, jobs=0, quiet=True)
    assert settled(resumed.record()["outcomes"]) == settled(whole.record()["outcomes"])


def test_folders_that_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        compare(experiment, tmp_path / "file", quiet=True)
    with pytest.raises(ValueError, match="holds no comparison"):
        compare(experiment, tmp_path, quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.yaml").write_text("title: another\nabout: it\ncosts: {lengths: [8], curves: {}}\n")
    with pytest.raises(ValueError, match="go on with it by --resume"):
        compare(experiment, tmp_path / "other", quiet=True)
    with pytest.raises(ValueError, match="of another experiment"):
        compare(experiment, tmp_path / "other", resume=True, quiet=True)
    with pytest.raises(ValueError, match="jobs must be 0 or more"):
        compare(experiment, tmp_path / "new", jobs=-1, quiet=True)


def test_an_outcome_comes_back_as_it_was() -> None:
    outcome = Outcome("a/b-seed0", "b", "a", 0, 0.1, "final", "done", curve=[(1.0, 2.0, 3, 4.0)])
    values = json.loads(json.dumps(replace(outcome).__dict__))
    assert Outcome(**values | {"curve": [tuple(point) for point in values["curve"]]}) == outcome
