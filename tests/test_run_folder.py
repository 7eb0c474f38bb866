"""A run folder loads what was saved, bit for bit, or says in one sentence why not; and it loads whenever the saver was killed."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from subquad import run_folder
from subquad.data.tokenizer import Tokenizer
from subquad.errors import RunError
from subquad.models import build_model

STACK: dict[str, Any] = {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2}}
SMALL: dict[str, Any] = {"kind": "megabyte", "max_len": 32, "patch_size": 4, "stages": [STACK, {**STACK, "dim": 8}]}
OTHER: dict[str, Any] = {"kind": "language_model", "max_len": 16, "stack": STACK}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(SMALL).eval()


@pytest.fixture
def run(model: nn.Module, tmp_path: Path) -> Path:
    run_folder.save(model, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("values", [SMALL, OTHER, {**OTHER, "tied": False}], ids=["megabyte", "tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loads_what_was_saved(values: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_model(values).to(dtype).eval()
    run_folder.save(model, tmp_path)
    loaded = run_folder.load(tmp_path)
    assert not loaded.training and loaded.config == model.config
    assert all(parameter.requires_grad and parameter.dtype == dtype for parameter in loaded.parameters())
    ids = torch.randint(0, 256, (2, 16))
    assert torch.equal(loaded(ids), model(ids))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]


def test_a_second_save_replaces_model_and_config(run: Path) -> None:
    run_folder.save(build_model(OTHER), run)
    assert run_folder.load(run).config == build_model(OTHER).config
    assert "replacing" not in json.loads((run / "manifest.json").read_text())


def tokens_of(text: bytes) -> Tokenizer:
    from tests.data.test_tokenizer import span

    return Tokenizer.train([span(text)], 260)


def test_a_token_model_has_its_tokenizer_with_it(tmp_path: Path) -> None:
    model: Any = build_model({**OTHER, "vocab": 260})
    model.tokenizer = tokens_of(b"some words and some more words")
    run_folder.save(model, tmp_path)
    run_folder.check(tmp_path)
    loaded: Any = run_folder.load(tmp_path)
    assert loaded.tokenizer.to_bytes() == model.tokenizer.to_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").rename(tmp_path / "elsewhere")
    assert cast(Any, run_folder.load(tmp_path)).tokenizer is None
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    for verify, message in [(True, "tokenizer.json is damaged"), (False, "is not a tokenizer.json")]:
        with pytest.raises(RunError, match=message):
            run_folder.load(tmp_path, verify=verify)
    (tmp_path / "tokenizer.json").write_bytes(tokens_of(b"quite another text here, and here").to_bytes())
    with pytest.raises(RunError, match="belongs to another model"):
        run_folder.load(tmp_path, verify=False)


def test_a_byte_model_in_the_place_of_a_token_model_has_no_tokenizer(tmp_path: Path) -> None:
    model: Any = build_model({**OTHER, "vocab": 260})
    model.tokenizer = tokens_of(b"some words and some more words")
    run_folder.save(model, tmp_path)
    run_folder.save(build_model(OTHER), tmp_path)
    assert cast(Any, run_folder.load(tmp_path)).tokenizer is None
    run_folder.check(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]


def test_a_tokenizer_put_there_by_hand_is_taken(run: Path) -> None:
    tokenizer = tokens_of(b"some words and some more words")
    run_folder.save(build_model({**OTHER, "vocab": 264}), run)
    (run / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    assert cast(Any, run_folder.load(run)).tokenizer.pieces == tokenizer.pieces
    run_folder.save(build_model(OTHER), run)
    (run / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    with pytest.raises(RunError, match="belongs to another model"):
        run_folder.load(run)


def test_saving_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a model of this library"):
        run_folder.save(nn.Linear(2, 2), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_any_flipped_bit_and_any_cut_is_refused(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        for damaged in (bytes(flipped), whole[: draw.randrange(len(whole))]):
            (run / name).write_bytes(damaged)
            with pytest.raises(RunError, match="is damaged"):
                run_folder.load(run)
    (run / name).write_bytes(whole)
    run_folder.load(run)


def test_damage_that_is_not_verified_still_ends_in_a_sentence(run: Path) -> None:
    whole = (run / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(1)
    for _ in range(100):
        flipped = bytearray(whole)
        flipped[draw.randrange(header)] ^= 1 << draw.randrange(8)
        for damaged in (bytes(flipped), whole[: draw.randrange(len(whole))]):
            (run / "model.safetensors").write_bytes(damaged)
            try:
                run_folder.load(run, verify=False)
            except RunError as error:
                assert "\n" not in str(error)


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


@pytest.mark.parametrize("name", ["gpu", "cuda:97"])
def test_a_device_that_is_not_there_is_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used: expected auto, cpu"):
        run_folder.resolve_device(name)


def test_auto_is_the_gpu_where_there_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert run_folder.resolve_device("auto") == torch.device(kind)
    weights = run_folder.load(run, "auto").parameters()
    assert {parameter.device for parameter in weights} == {torch.device("cpu")}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_run_folder_says_what_it_lacks(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunError, match=f"has no {name}"):
        run_folder.load(run)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        run_folder.load(tmp_path / "nowhere")


def test_a_repo_id_needs_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"pip install 'subquad\[hf\]'"):
        run_folder.load("someone/a-model")


def test_weights_that_do_not_fit_are_listed(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    first, second, *_ = tensors
    tensors["stranger"] = tensors.pop(first)
    tensors[second] = torch.zeros(3, 7)
    save_file(tensors, run / "model.safetensors")
    with pytest.raises(RunError) as error:
        run_folder.load(run, verify=False)
    assert f"missing {first}" in str(error.value) and "unknown stranger" in str(error.value) and "(3, 7)" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"kind": "language_model"}', '{"kind": "unheard-of"}', json.dumps({**SMALL, "patch_sice": 4})]
)
def test_a_config_that_describes_no_model_is_a_sentence(run: Path, text: str) -> None:
    (run / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json"):
        run_folder.load(run, verify=False)


def test_a_config_of_another_size_is_refused_before_memory_is_taken(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["stages"][0]["dim"] = 1 << 16
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="does not fit"):
        run_folder.load(run, verify=False)


def test_train_yaml_is_checked_when_the_manifest_covers_it(run: Path) -> None:
    run_folder.replace(run, {"train.yaml": b"steps: 1\n"})
    run_folder.load(run)
    (run / "train.yaml").write_text("steps: 2\n")
    with pytest.raises(RunError, match=r"train\.yaml is damaged"):
        run_folder.load(run)


def test_sealing_covers_every_file_and_does_not_bless_damage(run: Path) -> None:
    (run / "state").mkdir()
    (run / "state" / "inner.json").write_text("1")
    (run / "model.safetensors").write_bytes(b"damaged")
    run_folder.seal(run)
    assert set(run_folder.read_manifest(run).files) == {"config.json", "model.safetensors", "state/inner.json"}
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        run_folder.check(run)


@pytest.mark.parametrize("failing", range(8))
def test_a_save_that_dies_anywhere_leaves_a_model(failing: int, run: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill would, every rename from the n-th on never happens; the next save mends the folder."""
    calls = 0
    rename = Path.replace

    def dying(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > failing:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", dying)
    other = build_model(OTHER)
    with contextlib.suppress(KeyboardInterrupt):
        run_folder.save(other, run)
    monkeypatch.undo()
    assert run_folder.load(run).config in (model.config, other.config)
    run_folder.save(model, run)
    assert run_folder.load(run).config == model.config


def test_a_full_disk_leaves_the_old_model(run: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"some of it")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(run_folder, "save_file", full)
    with pytest.raises(OSError) as error:
        run_folder.save(build_model(OTHER), run)
    assert error.value.errno == errno.ENOSPC
    assert run_folder.load(run).config == model.config
    assert len(list(run.iterdir())) == 3


SAVER = """
import itertools, json, sys, torch
from subquad import run_folder
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
