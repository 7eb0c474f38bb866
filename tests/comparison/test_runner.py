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

TIMED = {"training_seconds", "ids_per_second", "command"}


def settled(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on when and where a comparison ran."""
    kept = [{key: value for key, value in outcome.items() if key not in TIMED} for outcome in outcomes]
    return [outcome | {"curve": [(flops, count, bits) for flops, _, count, bits in outcome["curve"]]} for outcome in kept]


def test_a_comparison_fills_its_table_and_another_seed_changes_it(experiment: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = compare(experiment, out, quiet=True, jobs=2, command="subquad compare a.yaml")
    assert {outcome.status for outcome in results.outcomes} == {"done"}
    for model in results.models:
        first, second = results.losses(model, "text")
        assert 0 < first < 8.5 and first != second
    one = results.finals("megabyte", "text")[0]
    assert one.loss.keys() == {"basic", "strided"} and len(one.inside) == 4
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
    values["data"]["small"] = {"paths": [str(tmp_path / "small.txt")]}
    (tmp_path / "small.txt").write_bytes(b"x")
    values["models"]["transformer"] |= {"lr": 1e30, "train": {"optim.clip": None}}
    results = compare(parse(Experiment, values), tmp_path / "out", jobs=0, quiet=True)
    found = {outcome.cell: outcome for outcome in results.outcomes}
    assert found["text/megabyte-seed0"].status == "done"
    diverged = found["text/transformer-seed0"]
    log = (tmp_path / "out" / "cells" / "text" / "transformer-seed0" / "run" / "log.jsonl").read_text().splitlines()
    assert diverged.status == "diverged" and diverged.step == json.loads(log[-1])["step"] > 0
    assert f"diverged at step {diverged.step}" in (tmp_path / "out" / "report.html").read_text()
    assert found["small/megabyte-seed0"].status == "failed" and "too few to split" in found["small/megabyte-seed0"].error
    (tmp_path / "small.txt").write_bytes((tmp_path / "text.txt").read_bytes())
    mended = {
        outcome.cell: outcome for outcome in compare(parse(Experiment, values), tmp_path / "out", resume=True, jobs=0, quiet=True).outcomes
    }
    assert mended["small/megabyte-seed0"].status == "done"
    assert mended["text/megabyte-seed0"] == found["text/megabyte-seed0"]


@pytest.mark.parametrize(("number", "group"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_stopped_comparison_resumes_to_the_same_table(
    values: dict[str, Any], tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    values["models"]["perceiver-ar"] = {"preset": "perceiver-ar-tiny", "set": {"stack.dim": 16, "max_len": 32, "latents": 8}, "lr": 0.01}
    values |= {"seeds": [0], "rates": None, "budget": {"bytes": 64 * 40}, "train": values["train"] | {"save.every": 5}}
    whole = compare(parse(Experiment, values), tmp_path / "whole", jobs=0, quiet=True)
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "subquad", "compare", str(file), "--out", str(out)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, start_new_session=True)
    state = out / "cells" / "text" / "megabyte-seed0" / "run" / "state"
    deadline = time.monotonic() + 120
    while not (state.is_dir() and any(path.name.startswith("step") for path in state.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number) if group else process.send_signal(number)  # Ctrl-C reaches all that belong to the terminal
    _, error = process.communicate(timeout=120)
    assert process.returncode not in (0, 1, 2)
    if number != signal.SIGKILL:
        assert b"--resume" in error and b"Traceback" not in error
    resumed = compare(parse(Experiment, values), out, resume=True, jobs=1, quiet=True)  # waits for an orphan, which saves and ends
    assert settled(resumed.record()["outcomes"]) == settled(whole.record()["outcomes"])


def test_folders_that_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        compare(experiment, tmp_path / "file", quiet=True)
    with pytest.raises(ValueError, match="is not a comparison"):
        compare(experiment, tmp_path, quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.yaml").write_text("title: another\nabout: it\ncosts: {lengths: [8], curves: {}}\n")
    with pytest.raises(ValueError, match="resume it with --resume"):
        compare(experiment, tmp_path / "other", quiet=True)
    with pytest.raises(ValueError, match="of another experiment"):
        compare(experiment, tmp_path / "other", resume=True, quiet=True)
    with pytest.raises(ValueError, match="jobs must be 0 or more"):
        compare(experiment, tmp_path / "new", jobs=-1, quiet=True)


def test_an_outcome_comes_back_as_it_was() -> None:
    outcome = Outcome("a/b-seed0", "b", "a", 0, 0.1, "final", "done", curve=[(1.0, 2.0, 3, 4.0)])
    values = json.loads(json.dumps(replace(outcome).__dict__))
    assert Outcome(**values | {"curve": [tuple(point) for point in values["curve"]]}) == outcome
