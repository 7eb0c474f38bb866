"""The public functions that compose the packages: training from a start, resuming with everything on, refusing in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from subquad import api, run_folder

TEXT = Path(__file__).parent.parent / "examples" / "data" / "tinyshakespeare.txt"
STACK = {"dim": 16, "depth": 2, "mixer": {"heads": 2, "dropout": 0.2}, "dropout": 0.2}
MODEL = {"kind": "megabyte", "max_len": 64, "patch_size": 4, "stages": [STACK, STACK], "init_std": 0.1}
OPTIONS: dict[str, Any] = {"steps": 6, "batch": 4, "accumulate": 2, "dtype": "float32", "eval.windows": 2, "eval.sample_bytes": 5}


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.read_bytes()[:6000])
    return str(path)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return run_folder.load(run / "state" / "step-00000006").state_dict()


def test_an_interrupted_run_ends_bit_for_bit_like_another(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, accumulation, samples and the machine measured on the way."""
    whole = api.train(MODEL, data, tmp_path / "whole", OPTIONS, quiet=True)
    sample = api._sample

    def interrupting(*arguments: Any) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return sample(*arguments)

    monkeypatch.setattr(api, "_sample", interrupting)
    parts = api.train(MODEL, data, tmp_path / "parts", {**OPTIONS, "eval.every": 3}, quiet=True)
    assert api.info(parts)["ended"] == "interrupted" and api.info(parts)["steps"] == 4
    monkeypatch.undo()
    api.train(None, None, parts, resume=True, quiet=True)
    one, other = weights(whole), weights(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole / "report.html").is_file() and (parts / "report.html").is_file()


def test_a_run_is_trained_by_one_process_at_a_time(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held from the first look at the folder until the report is written; resuming a run that is trained is refused too."""
    refused = []

    def meanwhile(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            for resume in (False, True):
                with pytest.raises(ValueError, match=f"is being written by process {os.getpid()}|is not empty") as error:
                    api.train(MODEL, data, tmp_path / "run", OPTIONS, resume=resume, quiet=True)
                refused.append("written by" in str(error.value))
            return function(*arguments)

        return call

    for name in ("_sample", "_report"):
        monkeypatch.setattr(api, name, meanwhile(getattr(api, name)))
    run = api.train(MODEL, data, tmp_path / "run", OPTIONS, quiet=True)
    assert refused == [False, True] * 2
    assert not list(run.rglob(".*"))


def test_of_two_processes_on_one_folder_the_second_is_refused(data: str, tmp_path: Path) -> None:
    """The first goes on undisturbed, and ends with the weights of a run that had the folder to itself."""
    program = "import json, sys; from subquad import api; api.train(*json.loads(sys.argv[1]), quiet=True)"
    options = OPTIONS | {"steps": 100, "save.every": 10}

    first = subprocess.Popen([sys.executable, "-c", program, json.dumps([MODEL, data, str(tmp_path / "run"), options])])
    while not (tmp_path / "run" / "log.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # so that it does not end before the second has looked
    words = ["train", "--resume", "--out", str(tmp_path / "run"), "--quiet"]
    second = subprocess.run([sys.executable, "-m", "subquad", *words], stderr=subprocess.PIPE, text=True, check=False)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and second.stderr.count("\n") == 1 and f"is being written by process {first.pid}" in second.stderr
    assert first.wait() == 0
    alone = api.train(MODEL, data, tmp_path / "alone", options, quiet=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


def test_starting_from_another_run(data: str, tmp_path: Path) -> None:
    first = api.train(MODEL, data, tmp_path / "first", OPTIONS, quiet=True)
    fine = api.train(MODEL, data, tmp_path / "fine", {**OPTIONS, "steps": 1, "optim.lr": 1e-9}, init=first, quiet=True)
    one, other = run_folder.load(first).state_dict(), run_folder.load(fine).state_dict()
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    with pytest.raises(ValueError, match=r"holds another model; the two differ in model\.patch_size"):
        api.train(MODEL, data, tmp_path / "other", {"model.patch_size": 8}, init=first, quiet=True)


def test_starting_from_a_token_run_takes_its_tokenizer(data: str, tmp_path: Path) -> None:
    tokens = {**OPTIONS, "steps": 1, "data.tokenizer": 270, "model.vocab": 270}
    model = {**MODEL, "vocab": 270}
    first = api.train(model, data, tmp_path / "first", tokens, quiet=True)
    for name, asked in (("named", str(first / "tokenizer.json")), ("taken", None)):
        fine = api.train(model, data, tmp_path / name, {**tokens, "data.tokenizer": asked}, init=first, quiet=True)
        assert (fine / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match=r"were trained with another tokenizer: leave data\.tokenizer out"):
        api.train(model, data, tmp_path / "other", {**tokens, "data.tokenizer": 260}, init=first, quiet=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data.fractions": [0.5, 0.1, 0.1]}, "add up to 1"),
        ({"data.window": 65}, "exceeds the model's context"),
        ({"optim": {"lrr": 1e-3}}, "did you mean 'lr'"),
        ({"model": {"stages": 3}}, "stages"),
    ],
)
def test_what_is_refused_leaves_no_folder(data: str, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        api.train(MODEL, data, tmp_path / "run", options, quiet=True)
    assert not (tmp_path / "run").exists()


def test_options_nested_or_dotted_mean_the_same(data: str, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{"optim.lr": 1e-2, "model.patch_size": 2}, {"optim": {"lr": 1e-2}, "model": {"patch_size": 2}}]
    runs = [api.train(MODEL, data, tmp_path / str(number), {**OPTIONS, "steps": 1, **way}, quiet=True) for number, way in enumerate(ways)]
    one, other = ((run / "config.json").read_text() for run in runs)
    assert one == other and '"patch_size": 2' in one


def test_a_device_that_is_not_there(data: str, tmp_path: Path) -> None:
    run = api.train(MODEL, data, tmp_path / "run", {**OPTIONS, "steps": 1}, quiet=True)
    with pytest.raises(ValueError, match="device 'banana' cannot be used"):
        api.load(run, "banana")


def test_the_report_is_of_the_best_weights_and_loads_no_second_model(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own model takes the best weights; a model that just fitted a device must not be loaded twice."""
    seen: dict[str, Any] = {}

    def sections(self: Any, model: Any) -> list[Any]:
        seen["weights"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        seen["gradients"] = [parameter.grad for parameter in model.parameters()]
        return []

    monkeypatch.setattr("subquad.objectives.next_token.NextToken.sections", sections)
    monkeypatch.setattr(api, "load", lambda *arguments: pytest.fail("a second model was loaded"))
    run = api.train(MODEL, data, tmp_path / "run", OPTIONS, quiet=True)
    best = run_folder.load(run).state_dict()
    assert all(torch.equal(seen["weights"][name], best[name]) for name in best) and seen["gradients"] == [None] * len(seen["gradients"])


def test_a_vocabulary_that_bytes_cannot_use_is_refused_before_training(data: str, tmp_path: Path) -> None:
    for vocab in (100, 300):
        with pytest.raises(ValueError, match=f"has a vocabulary of {vocab} and the data are bytes.*model.vocab=256"):
            api.train(MODEL, data, tmp_path / "run", {**OPTIONS, "model.vocab": vocab}, quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_command_of_a_run_resumes_it(data: str, tmp_path: Path) -> None:
    changes = {**OPTIONS, "model.max_len": 32}
    run = api.train(MODEL, data, tmp_path / "run", changes, quiet=True)
    assert api.train(MODEL, data, run, changes, resume=True, quiet=True) == run
    with pytest.raises(ValueError, match="holds another model than the one named"):
        api.train(MODEL, data, run, OPTIONS, resume=True, quiet=True)


def test_a_report_names_the_part_that_it_shows(data: str, tmp_path: Path) -> None:
    run = api.train(MODEL, data, tmp_path / "run", {**OPTIONS, "data.fractions": [1, 0, 0], "data.split": "range"}, quiet=True)
    page = (run / "report.html").read_text()
    assert "Training data: " in page and "Validation data" not in page
