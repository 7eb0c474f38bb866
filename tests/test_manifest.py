"""The files of a run are replaced together: whenever the saver is killed, the old model loads or the new one."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from subquad import manifest, run_folder
from subquad.errors import RunError
from subquad.models import build_model
from tests.test_run_folder import OTHER, SMALL, STACK, tokens_of


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(SMALL).eval()


@pytest.fixture
def run(model: nn.Module, tmp_path: Path) -> Path:
    run_folder.save(model, tmp_path / "run")
    return tmp_path / "run"


def test_a_damaged_manifest_is_refused(run: Path) -> None:
    whole = (run / "manifest.json").read_bytes()
    for text in (b"{", b"[]", b'{"files": []}', b'{"files": {}}', b"\xff", whole[:-5], whole.replace(b"config", b"konfig")):
        (run / "manifest.json").write_bytes(text)
        with pytest.raises(RunError):
            run_folder.load(run)
        run_folder.load(run, verify=False)


def test_a_missing_manifest_names_the_way_round_it(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(RunError, match="verify=False"):
        run_folder.load(run)
    run_folder.load(run, verify=False)


def test_train_yaml_is_checked_when_the_manifest_covers_it(run: Path) -> None:
    manifest.replace(run, {"train.yaml": b"steps: 1\n"})
    run_folder.load(run)
    (run / "train.yaml").write_text("steps: 2\n")
    with pytest.raises(RunError, match=r"train\.yaml is damaged"):
        run_folder.load(run)


def test_sealing_covers_every_file_and_does_not_bless_damage(run: Path) -> None:
    (run / "state").mkdir()
    (run / "state" / "inner.json").write_text("1")
    (run / "model.safetensors").write_bytes(b"damaged")
    run_folder.seal(run)
    assert set(manifest.read_manifest(run).files) == {"config.json", "model.safetensors", "state/inner.json"}
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        manifest.check(run)


def token_model(text: bytes) -> nn.Module:
    model = build_model({**OTHER, "vocab": 260})
    model.tokenizer = tokens_of(text)
    return model


def parts(model: Any) -> tuple[Any, ...]:
    """What a model is made of, to compare."""
    tokenizer = None if model.tokenizer is None else model.tokenizer.to_bytes()
    return model.config, tokenizer, next(model.parameters()).flatten().tolist()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda: build_model(SMALL), lambda: build_model(OTHER)),
        (lambda: token_model(b"some words and more words"), lambda: token_model(b"quite another text here, and here")),
        (lambda: token_model(b"some words and more words"), lambda: build_model(OTHER)),
        (lambda: build_model(OTHER), lambda: token_model(b"some words and more words")),
    ],
    ids=["config", "tokenizer", "no tokenizer", "first tokenizer"],
)
def test_a_save_that_is_killed_anywhere_leaves_the_old_model_or_the_new(
    before: Callable[[], nn.Module], after: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """As after a kill, nothing happens to the disk from the n-th step on, no cleaning up either; the next save mends the folder."""
    old, new = before(), after()
    seen = []
    for steps in itertools.count():
        run = tmp_path / str(steps)
        run_folder.save(old, run)
        with pytest.MonkeyPatch.context() as patch:
            die_after(steps, patch)
            try:
                run_folder.save(new, run)
                killed = False
            except Killed:
                killed = True
        loaded = parts(run_folder.load(run))
        assert loaded in (parts(old), parts(new))
        seen.append(loaded == parts(new))
        run_folder.save(old, run)
        assert parts(run_folder.load(run)) == parts(old)
        manifest.check(run)
        assert not list(run.glob(".*"))
        if not killed:
            break
    assert seen == sorted(seen) and seen[-1] and steps > 10


class Killed(BaseException):
    """Stands for the end of the process."""


def die_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Lets so many changes of the disk happen, and no more."""
    left = steps

    def mortal(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return change(*arguments, **named)

        return call

    for name in ("replace", "unlink", "mkdir", "write_bytes", "chmod"):
        patch.setattr(Path, name, mortal(getattr(Path, name)))
    patch.setattr(shutil, "rmtree", mortal(shutil.rmtree))
    patch.setattr(run_folder, "save_file", mortal(save_file))


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_save_of_0_1_0_that_was_killed_loads(renamed: int, run: Path, model: nn.Module, tmp_path: Path) -> None:
    other = build_model(OTHER)
    run_folder.save(other, tmp_path / "other")
    files = json.loads((run / "manifest.json").read_text())["files"]
    names = ["model.safetensors", "config.json"]  # in the order of its renames
    replacing = {name: manifest.digest_of(tmp_path / "other" / name) for name in names}
    for number, name in enumerate(names):
        (tmp_path / "other" / name).rename(run / (name if number < renamed else f".{name}.tmp"))
    (run / "manifest.json").write_text(json.dumps({"files": files, "replacing": replacing}))
    assert cast(Any, run_folder.load(run)).config == other.config
    manifest.settle(run)
    manifest.check(run)
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]
    run_folder.save(model, run)
    assert run_folder.load(run).config == model.config


def test_a_replacement_that_was_given_up_is_none(run: Path, model: nn.Module) -> None:
    files = json.loads((run / "manifest.json").read_text())["files"]
    (run / "manifest.json").write_text(json.dumps({"files": files, "replacing": {"config.json": "0" * 64}}))
    assert run_folder.load(run).config == model.config
    assert manifest.settle(run) == files


@pytest.mark.parametrize("name", ["../precious", "state/precious", "..", "/precious"])
def test_no_manifest_reaches_out_of_its_folder(name: str, run: Path, model: nn.Module) -> None:
    (run.parent / "precious").write_text("mine")
    files = json.loads((run / "manifest.json").read_text())["files"]
    (run / "manifest.json").write_text(json.dumps({"files": files, "replacing": {name: "missing"}}))
    for use in (lambda: run_folder.save(model, run), lambda: run_folder.seal(run), lambda: run_folder.load(run)):
        with pytest.raises(RunError, match=r"manifest\.json is damaged"):
            use()
    assert (run.parent / "precious").read_text() == "mine"


def test_a_reader_meets_a_writer(run: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is saved between the check and the reading of another is read whole."""
    other, read_config = build_model(OTHER), run_folder.read_config

    def meanwhile(folder: Path) -> dict[str, Any]:
        config = read_config(folder)
        monkeypatch.undo()
        run_folder.save(other, run)
        return config

    monkeypatch.setattr(run_folder, "read_config", meanwhile)
    assert run_folder.load(run).config == other.config


def test_a_full_disk_leaves_the_old_model(run: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"some of it")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(run_folder, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        run_folder.save(build_model(OTHER), run)
    assert str(error.value.filename).endswith("model.safetensors")
    assert run_folder.load(run).config == model.config
    assert len(list(run.iterdir())) == 3


SAVER = """
import itertools, json, sys, torch
from subquad import manifest, run_folder
from subquad.models import build_model
models = [build_model(values) for values in json.loads(sys.argv[2])]
for count in itertools.count(1):
    model = models[count % 2]
    for parameter in model.parameters():
        parameter.data.fill_(count)
    run_folder.save(model, sys.argv[1])
    if count == 2:
        print("saving", flush=True)
"""


def test_killed_in_the_middle_of_saving(tmp_path: Path, kills: int = 3) -> None:
    larger = {**OTHER, "stack": {**STACK, "dim": 256}}
    draw = random.Random(0)
    for _ in range(kills):
        command = [sys.executable, "-c", SAVER, str(tmp_path), json.dumps([SMALL, larger])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as saver:
            assert saver.stdout is not None and saver.stdout.readline() == b"saving\n"
            time.sleep(draw.random() / 5)
            saver.send_signal(signal.SIGKILL)
        values = torch.cat([parameter.flatten() for parameter in run_folder.load(tmp_path).parameters()])
        assert values.min() == values.max() >= 1
