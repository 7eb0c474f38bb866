"""A whole comparison: what it writes, and that nothing is lost by a cell that fails, one that diverges, and a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
import yaml

from subquad.cli import main
from subquad.comparison.experiment import Experiment
from subquad.comparison.results import Outcome, Results, read_results
from subquad.comparison.run_cell import read_outcome, write_outcome
from subquad.comparison.runner import _RunningCell, _terminated_at_end, compare
from subquad.config import parse
from subquad.errors import RunError
from subquad.system import lock
from tests.comparison.small import TINY, TINY_MEGABYTE, two_models, write_text


def without_times(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """What must not depend on when and where a comparison ran."""
    return [
        replace(
            outcome,
            training_seconds=None,
            ids_per_second=None,
            command="",
            curve=[(flops, 0.0, count, loss) for flops, _, count, loss in outcome.curve],
        )
        for outcome in outcomes
    ]


def test_a_comparison_fills_its_table_and_another_seed_changes_it(experiment: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = compare(experiment, out, quiet=True, jobs=0, command="subquad compare a.yaml")
    assert {outcome.status for outcome in results.outcomes} == {"done"}
    for model in results.models:
        first, second = results.losses(model, "text")
        assert 0 < first < 8.5 and first != second
    outcome = results.finals("megabyte", "text")[0]
    assert outcome.loss.keys() == {"basic", "strided"} and len(outcome.inside) == 4
    assert outcome.training_bytes == 640 and outcome.curve[-1][2] == 640
    assert outcome.training_flops == pytest.approx(640 * (outcome.training_flops_per_byte or 0))
    assert outcome.state_bytes and outcome.peak_bytes and outcome.serial_steps == pytest.approx(2 + 2 / 4)
    saved = json.loads((out / "results.json").read_text())
    assert saved["outcomes"] == json.loads(json.dumps(results.record()["outcomes"]))
    assert (out / "results.csv").read_text().count("\n") == len(results.outcomes) + 1
    assert "A small one" in (out / "report.html").read_text()
    assert any("learning rate" in note for note in results.notes)
    again = compare(experiment, out, resume=True, jobs=0, quiet=True)
    assert again.outcomes == results.outcomes


def test_cells_that_fail_or_diverge_leave_the_others_alone(values: dict[str, Any], tmp_path: Path) -> None:
    small, out = tmp_path / "small.txt", tmp_path / "out"
    small.write_bytes(b"x")
    values |= {"seeds": [0], "rates": None, "score": ["basic"]}
    values["data"]["small"] = {"paths": [str(small)], "only": ["megabyte"]}
    values["models"]["transformer"] |= {"lr": 1e30, "train": {"optim.clip": None}}
    outcomes = {outcome.cell: outcome for outcome in compare(values, out, jobs=0, quiet=True).outcomes}
    assert outcomes["text/megabyte-seed0"].status == "done"
    diverged = outcomes["text/transformer-seed0"]
    log = (out / "cells/text/transformer-seed0/run/log.jsonl").read_text().splitlines()
    assert diverged.status == "diverged" and diverged.step == json.loads(log[-1])["step"] > 0
    assert f"diverged at step {diverged.step}" in (out / "report.html").read_text()
    failed = outcomes["small/megabyte-seed0"]
    assert failed.status == "failed" and "too few to split" in failed.error
    small.write_bytes((tmp_path / "text.txt").read_bytes())
    resumed = {outcome.cell: outcome for outcome in compare(values, out, resume=True, jobs=0, quiet=True).outcomes}
    assert resumed["small/megabyte-seed0"].status == "done"
    assert resumed["text/megabyte-seed0"] == outcomes["text/megabyte-seed0"]


@pytest.mark.slow
def test_a_plain_script_compares_and_is_not_started_again(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"seeds": [0], "rates": None, "score": ["basic"]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    script = """
import subquad
print("started")
results = subquad.compare("experiment.yaml", "out", jobs=2, quiet=True)
print({outcome.status for outcome in results.outcomes})
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.stdout.split("\n") == ["started", "{'done'}", ""], ended.stderr


def test_rates_that_all_fail_leave_the_default(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"seeds": [0], "score": ["basic"], "rates": {"among": [1e30], "data": "text"}}
    values["models"] = {"transformer": values["models"]["transformer"] | {"train": {"optim.clip": None}}}
    results = compare(values, tmp_path / "out", jobs=0, quiet=True)
    assert [(outcome.role, outcome.status) for outcome in results.outcomes] == [("rate", "diverged"), ("final", "done")]
    assert "every learning rate that was tried failed" in results.notes[0]


def long_run(folder: Path) -> dict[str, Any]:
    """Two models for 40 steps; dropout draws random numbers in each."""
    values = two_models(write_text(folder))
    values["models"]["megabyte"]["set"] = TINY_MEGABYTE | {"stages.1.dropout": 0.1}
    values["models"]["transformer"] |= {"set": TINY | {"stack.dropout": 0.1}, "lr": 0.01}
    return values | {"seeds": [0], "rates": None, "budget": {"steps": 40}, "score": ["basic"]}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return compare(long_run(folder), folder / "out", jobs=0, quiet=True)


def wait_for_checkpoint(run: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(run.glob("state/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_comparison_resumes_to_the_same_table(uninterrupted: Results, tmp_path: Path) -> None:
    values = long_run(tmp_path)
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "subquad", "compare", str(file), "--out", str(out), "--jobs", "2", "--quiet"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    wait_for_checkpoint(out / "cells/text/megabyte-seed0/run")
    process.kill()
    assert process.wait(timeout=120) == -signal.SIGKILL
    resumed = compare(values, out, resume=True, jobs=0, quiet=True)  # waits for the orphaned cells, which save and end
    assert without_times(resumed.outcomes) == without_times(uninterrupted.outcomes)


@pytest.mark.slow
def test_an_interrupted_comparison_saves_and_resumes_to_the_same_table(
    uninterrupted: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, out = long_run(tmp_path), tmp_path / "out"

    def interrupt() -> None:
        wait_for_checkpoint(out / "cells/text/transformer-seed0/run")  # the second cell
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        compare(values, out, jobs=1, quiet=True)
    thread.join()
    assert "--resume" in capsys.readouterr().err
    assert not (out / "cells/text/transformer-seed0/outcome.json").exists()
    resumed = compare(values, out, resume=True, jobs=0, quiet=True)
    assert without_times(resumed.outcomes) == without_times(uninterrupted.outcomes)


def test_sigterm_ends_the_running_cells_too() -> None:
    process, handler = Mock(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _terminated_at_end([_RunningCell(Mock(), process)]):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert process.method_calls == [call.terminate(), call.join()] and signal.getsignal(signal.SIGTERM) == handler


def test_a_folder_that_holds_something_else_is_an_error(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        compare(experiment, tmp_path / "file", quiet=True)
    with pytest.raises(ValueError, match="is not a comparison"):
        compare(experiment, tmp_path, quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.yaml").write_text("title: another\nabout: it\ncosts: {lengths: [8], curves: {}}\n")
    with pytest.raises(ValueError, match="resume it with --resume"):
        compare(experiment, tmp_path / "other", quiet=True)
    with pytest.raises(ValueError, match="of another experiment: resume with the experiment and the options, such as --quick"):
        compare(experiment, tmp_path / "other", resume=True, quiet=True)
    with pytest.raises(ValueError, match="jobs must be 1 or more, or 0 to run the cells in this process, got -1"):
        compare(experiment, tmp_path / "new", jobs=-1, quiet=True)


def test_what_is_left_out_of_the_data_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_bytes(b"some words here and there\n" * 400)
    (tmp_path / "data" / "nowhere").symlink_to("nothing")
    small = {"preset": "transformer-tiny", "set": {"max_len": 64}}
    values = {"title": "two", "about": "", "models": {"a": small, "b": small}, "data": {"text": {"paths": str(tmp_path / "data")}}}
    experiment = parse(Experiment, values | {"budget": {"steps": 2}, "train": {"batch": 2}})
    compare(experiment, tmp_path / "out", jobs=1, quiet=True)
    assert capfd.readouterr().err.count("left out of the data: nowhere") == 1


def test_a_folder_whose_name_is_not_utf8_is_refused_before_anything_runs(experiment: Experiment, tmp_path: Path) -> None:
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        compare(experiment, out, quiet=True, jobs=0)
    assert not out.exists()


def test_of_two_new_comparisons_in_a_folder_one_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with lock(out), pytest.raises(ValueError, match=f"is being written by process {os.getpid()}: wait for it"):
        compare(experiment, out, quiet=True, jobs=0)
    assert not list(out.iterdir())


@pytest.mark.parametrize("text", ['{"cell": "a"}', '{"cell"'])
def test_an_outcome_that_cannot_be_read_says_what_to_remove(text: str, tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text(text)
    with pytest.raises(RunError, match=r"outcome\.json is damaged or of an earlier version: remove the folder .* again with --resume"):
        read_outcome(tmp_path)


def test_an_outcome_that_was_changed_is_refused(tmp_path: Path) -> None:
    outcome = Outcome("a/b-seed0", "b", "a", 0, 0.1, "final", "done", loss={"basic": 1.25})
    write_outcome(outcome, tmp_path)
    assert read_outcome(tmp_path) == outcome
    path = tmp_path / "outcome.json"
    path.write_text(path.read_text().replace("1.25", "1.15"))
    with pytest.raises(RunError, match=r"outcome\.json is damaged: its sha256 is not that in manifest\.json; remove the two files"):
        read_outcome(tmp_path)
    write_outcome(outcome, tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"outcome\.json is damaged"):
        read_outcome(tmp_path)
    manifest.unlink()  # as in the comparisons of 0.1.0
    assert read_outcome(tmp_path) == outcome


def test_a_flipped_bit_of_a_comparison_is_one_sentence(values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values |= {"seeds": [0], "rates": None, "score": ["basic"]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    out = tmp_path / "out"
    words = ["compare", str(tmp_path / "experiment.yaml"), "--out", str(out), "--jobs", "0", "--quiet"]
    assert main(words) == 0
    before = read_results(out)
    flip(out / "results.json")
    with pytest.raises(RunError, match=r"results\.json is damaged: .*; the same comparison with --resume writes it again"):
        read_results(out)
    assert main([*words, "--resume"]) == 0
    assert without_times(read_results(out).outcomes) == without_times(before.outcomes)
    capsys.readouterr()

    cell = out / "cells" / before.outcomes[0].cell
    flip(cell / "outcome.json")
    assert main([*words, "--resume"]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "outcome.json is damaged" in text
    for name in ("outcome.json", "manifest.json"):
        (cell / name).unlink()
    assert main([*words, "--resume"]) == 0
    assert without_times(read_results(out).outcomes) == without_times(before.outcomes)


def flip(path: Path) -> None:
    """Turns a digit into another one, so that the file is JSON still."""
    content = path.read_bytes()
    place = content.index(b".", content.index(b'"loss"')) + 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def test_an_outcome_comes_back_as_it_was() -> None:
    outcome = Outcome("a/b-seed0", "b", "a", 0, 0.1, "final", "done", curve=[(1.0, 2.0, 3, 4.0)])
    values = json.loads(json.dumps(replace(outcome).__dict__))
    assert Outcome(**values | {"curve": [tuple(point) for point in values["curve"]]}) == outcome
