"""The command line with everything behind it: a small model trained on a small text, used, resumed, and asked for the impossible."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import subquad
from subquad.cli import main

TEXT = b"".join(f"line {number}: the quick brown fox jumps over the lazy dog\n".encode() for number in range(200))
MIXER = {"kind": "attention", "heads": 2}
CONFIG = {
    "model": {
        "kind": "megabyte",
        "max_len": 32,
        "patch_size": 4,
        "stages": [{"dim": 32, "depth": 1, "mixer": MIXER}, {"dim": 16, "depth": 1, "mixer": MIXER}],
    },
    "steps": 3,
    "batch": 2,
    "device": "cpu",
    "dtype": "float32",
    "eval": {"windows": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text.txt, config.yaml, and in run/ what training made of them."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_bytes(TEXT)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    arguments = [str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--out", str(folder / "run"), "--quiet"]
    assert main(["train", *arguments]) == 0
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(folder / "run", tmp_path / "run"))


def test_training_leaves_a_whole_run(folder: Path) -> None:
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"config.json", "model.safetensors", "train.yaml", "data.json", "manifest.json", "log.jsonl", "state", "report.html"} <= names
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in log if record["kind"] == "train"] == [1, 2, 3]


def test_a_preset_trains_with_settings(folder: Path, tmp_path: Path) -> None:
    settings = {"model.max_len": 64, "model.stages.0.depth": 1, "model.cross_patch": 2, "batch": 1, "optim.lr": "1e-4", "eval.windows": 1}
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    arguments = ["megabyte-tiny", "--data", str(folder / "text.txt"), "--out", str(tmp_path / "tiny"), "--steps", "1", *flags]
    assert main(["train", *arguments, "--device", "cpu", "--dtype", "float32", "--quiet"]) == 0
    saved = yaml.safe_load((tmp_path / "tiny" / "train.yaml").read_text(encoding="utf-8"))
    assert (saved["steps"], saved["optim"]["lr"], saved["model"]["cross_patch"]) == (1, 1e-4, 2)


def test_a_preset_trains_on_tokens_and_is_used(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, text = tmp_path / "tokens", folder / "text.txt"
    settings = {"data.tokenizer": 300, "model.vocab": 300, "model.max_len": 64, "batch": 1, "eval.windows": 1, "eval.sample_bytes": 9}
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    arguments = ["transformer-tiny", "--data", str(text), "--out", str(run), "--steps", "1", *flags]
    assert main(["train", *arguments, "--device", "cpu", "--dtype", "float32", "--quiet"]) == 0
    assert {"tokenizer.json", "report.html"} <= {path.name for path in run.iterdir()}
    capsys.readouterr()
    assert main(["score", str(run), str(text), "--json", "--bits-out", str(tmp_path / "bits.npy")]) == 0
    total, bits = json.loads(capsys.readouterr().out)["total"], np.load(tmp_path / "bits.npy")
    assert total["bytes"] == len(TEXT) == len(bits) and total["bits_per_byte"] == pytest.approx(bits.mean(dtype=float))
    assert main(["generate", str(run), "--prompt", "line", "--max-bytes", "31", "--out", str(tmp_path / "out")]) == 0
    assert len((tmp_path / "out").read_bytes()) == 31
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["vocab"] == 300
    assert main(["train", "--resume", "--out", str(run), "--steps", "2", "--quiet"]) == 0
    (run / "tokenizer.json").unlink()
    assert main(["score", str(run), str(text)]) == 2
    assert "needs its tokenizer" in capsys.readouterr().err


def test_resuming_extends_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "--out", str(run), "--steps", "5", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5


def test_info_tells_of_damage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged"] == []
    (run / "log.jsonl").write_bytes((run / "log.jsonl").read_bytes().replace(b'"step": 1', b'"step": 2'))
    assert main(["info", str(run), "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["damaged"] == ["log.jsonl"] and "log.jsonl in" in printed.err


def test_a_run_is_resumed_from_another_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(["train", "config.yaml", "--data", "text.txt", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "--out", "run", "--steps", "4", "--quiet"]) == 0
    assert json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_training_goes_on_from_another_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    arguments = [str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--init", str(folder / "run"), "--out", str(out)]
    assert main(["train", *arguments, "--steps", "1", "--quiet"]) == 0
    assert yaml.safe_load((out / "train.yaml").read_text(encoding="utf-8"))["init"] == str(folder / "run")


def test_what_is_generated_is_what_python_gives(folder: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    options = ["--prompt", "the ", "--max-bytes", "50", "--temperature", "0.7", "--top-k", "40", "--seed", "3"]
    expected = subquad.generate(subquad.load(folder / "run"), b"the ", max_bytes=50, temperature=0.7, top_k=40, seed=3)
    assert main(["generate", str(folder / "run"), *options]) == 0
    assert capfdbinary.readouterr() == (expected, b"")
    assert main(["generate", str(folder / "run"), *options, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == expected


def test_a_process_reads_a_pipe_and_writes_bytes(folder: Path) -> None:
    prompt = "é".encode()[:1]
    command = [sys.executable, "-W", "error", "-m", "subquad", "generate", str(folder / "run"), "--prompt-file", "-", "--utf8"]
    done = subprocess.run(command, input=prompt, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == subquad.generate(subquad.load(folder / "run"), prompt, utf8=True)
    (prompt + done.stdout).decode("utf-8")


@pytest.mark.parametrize("flags", [[], ["--overlap", "8"], ["--sliding"], ["--strided"], ["--strided", "--sliding"]])
def test_scores_are_those_of_python(folder: Path, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    empty, bits = tmp_path / "empty", tmp_path / "bits.npy"
    empty.touch()
    assert main(["score", str(folder / "run"), str(folder / "text.txt"), str(empty), *flags, "--json", "--bits-out", str(bits)]) == 0
    figures = json.loads(capsys.readouterr().out)
    passes: dict[str, Any] = {"sliding": "--sliding" in flags, "strided": "--strided" in flags, "overlap": 8 if "--overlap" in flags else 0}
    expected = subquad.score(subquad.load(folder / "run"), TEXT, **passes)
    assert figures["files"][0]["bits_per_byte"] == figures["total"]["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-12)
    assert figures["files"][1] == {"file": str(empty), "bytes": 0, "bits_per_byte": None, "word_perplexity": None}
    assert np.array_equal(np.load(bits), expected.bits)


def test_a_file_that_comes_through_a_pipe_is_scored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.write(writing, TEXT[:4000])
    os.close(writing)
    assert main(["score", str(folder / "run"), f"/dev/fd/{reading}", "--json"]) == 0
    os.close(reading)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT[:4000])))
    assert json.loads(capsys.readouterr().out)["total"]["bytes"] == 4000
    assert main(["score", str(folder / "run"), "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["bytes"] == 4000


def test_info_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  kind: megabyte" in lines
    assert "steps: 3" in lines


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("train megabyte-tiny --data nowhere --out new", 2, "nowhere"),
        ("train megabyte-tiny --data empty --out new", 2, ""),
        ("train megabyte-tiny --out new", 2, "no data"),
        ("train megabyte-tny --data text.txt --out new", 2, "did you mean 'megabyte-tiny'?"),
        ("train nowhere.yaml --data text.txt --out new", 2, "nowhere.yaml"),
        ("train megabyte-tiny --data text.txt --out new --set optim.lrr=1", 2, "did you mean 'lr'?"),
        ("train megabyte-tiny --data text.txt --out new --set model.patch_sise=4", 2, "did you mean 'patch_size'?"),
        ("train megabyte-tiny --data text.txt --out new --set model.patch_size=7", 2, "7"),
        ("train megabyte-tiny --data text.txt --out new --set optim.lr=fast", 2, "optim.lr"),
        ("train megabyte-tiny --data text.txt --out new --steps 0", 2, "steps"),
        ("train megabyte-tiny --data text.txt --out new --dtype float8", 2, "dtype"),
        ("train megabyte-tiny --data text.txt --out new --device abacus", 2, "abacus"),
        ("train config.yaml --data text.txt --out run", 2, "not empty"),
        ("train config.yaml --data text.txt --out text.txt", 2, "text.txt"),
        ("train --resume --out .", 2, "not a run to resume"),
        ("train --resume --out nowhere", 2, "nowhere"),
        ("train --resume --out run --set batch=4", 2, "batch"),
        ("train config.yaml --data text.txt --out new --init .", 1, "not a run folder"),
        ("generate run --max-bytes -1", 2, "max_bytes"),
        ("generate run --temperature -1", 2, "temperature"),
        ("generate .", 1, "not a run folder"),
        ("score run text.txt --overlap 32", 2, "overlap"),
        ("score run text.txt --overlap 4 --sliding", 2, "sliding"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    folder: Path, arguments: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").touch()
    assert main(arguments.split()) == status
    out, err = capsys.readouterr()
    assert err.startswith("subquad: ")
    assert len(err.splitlines()) == 1
    assert "internal error" not in err
    assert words in err
    assert out == ""
    assert not (folder / "new").exists() or not any((folder / "new").iterdir())


def test_a_damaged_checkpoint_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["generate", str(run)]) == 1
    assert "model.safetensors" in capsys.readouterr().err
    weights.write_bytes(content[: len(content) // 2])
    assert main(["score", str(run), str(run / "config.json")]) == 1
    assert "model.safetensors" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under a file there can be no folder, not even for root, who may write to a read-only one."""
    new = folder / "text.txt" / "new"
    assert main(["train", str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--out", str(new)]) == 2
    assert f"cannot write to {new}" in capsys.readouterr().err


def test_the_table_of_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in table] == list(subquad.presets())
    assert all(row["parameters"] > 0 and row["flops_per_byte"] > 0 and row["max_len"] > 0 for row in table)


def test_several_prompts_and_samples_are_one_batch(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(run), "--prompt", "line", "--prompt", "fox", "--samples", "2", "--max-bytes", "5", "--seed", "7", "--utf8"]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["prompt"], row["seed"]) for row in rows] == [("line", 7), ("line", 8), ("fox", 7), ("fox", 8)]
    model = subquad.load(run)
    for row in rows:
        assert row["text"] == subquad.generate(model, row["prompt"], max_bytes=5, seed=row["seed"], utf8=True).decode()
    assert main(words) == 0
    assert capsys.readouterr().out.count("=== 'line', seed ") == 2


def test_an_answer_is_scored_after_its_prompt(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answer.txt").write_bytes(b" fox")
    assert main(["score", str(run), str(tmp_path / "answer.txt"), "--prompt", "the brown", "--json"]) == 0
    bits = json.loads(capsys.readouterr().out)["total"]["bits_per_byte"]
    model = subquad.load(run)
    whole = subquad.score(model, b"the brown fox").bits
    assert bits == pytest.approx(float(whole[9:].mean())) == pytest.approx(subquad.score(model, b" fox", prompt="the brown").bits_per_byte)
    assert subquad.score(model, b" fox").bits_per_byte != pytest.approx(bits)


def test_a_run_killed_in_its_first_writes_is_resumed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--out", str(tmp_path / "run"), "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr("subquad.manifest._move", lambda source, target: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(arguments) == 130
    assert not (tmp_path / "run/train.yaml").exists() and (tmp_path / "run/manifest.json").exists()
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert main(["info", str(tmp_path / "run"), "--json"]) == 0
