"""``subquad classify`` and training for it, from a table to labels on the screen."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import subquad
from subquad.cli import main

BACKBONE = {
    "kind": "language_model",
    "max_len": 32,
    "stack": {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2}},
    "init_std": 0.1,
}
CONFIG: dict[str, Any] = {
    "model": {"kind": "classifier", "backbone": BACKBONE},
    "steps": 2,
    "batch": 4,
    "device": "cpu",
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table whose columns have names of their own, and in run/ a classifier trained on it."""
    folder = tmp_path_factory.mktemp("classify")
    rows = [f'{{"sentence": "text {number}", "mood": {number % 3}}}' for number in range(30)]
    (folder / "table.jsonl").write_text("\n".join(rows))
    (folder / "bare.tsv").write_text("0\ttext 0\n1\ttext 1\n")
    (folder / "note.txt").write_bytes(b"text 4")
    (folder / "long.txt").write_bytes(b"text 4 " * 1000)
    subquad.save(subquad.build("transformer-tiny"), folder / "causal")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    settings = [
        "--set",
        "objective.columns.text=sentence",
        "--set",
        "objective.columns.label=mood",
        "--set",
        "data.fractions=[0.8,0.1,0.1]",
    ]
    arguments = [str(folder / "config.yaml"), "--data", str(folder / "table.jsonl"), "--out", str(folder / "run"), *settings]
    assert main(["train", *arguments, "--quiet"]) == 0
    return folder


def test_a_table_is_classified_in_the_columns_of_the_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(folder / "run"), str(folder / "table.jsonl"), str(folder / "note.txt"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["texts"]) == 31 and set(answer["metrics"]) == {"accuracy", "f1", "matthews"}
    first, last = answer["texts"][0], answer["texts"][-1]
    assert (first["text"], first["true"]) == (f"{folder}/table.jsonl:1", "0") and list(first["probabilities"]) == ["0", "1", "2"]
    assert last["text"] == f"{folder}/note.txt" and "true" not in last
    (found,) = subquad.classify(subquad.load(folder / "run"), ["text 4"])
    assert (last["label"], last["probabilities"]) == (found.label, pytest.approx(found.probabilities))
    assert answer["metrics"]["accuracy"] == pytest.approx(sum(one["label"] == one.get("true") for one in answer["texts"]) / 30)


def test_columns_by_number_as_a_list_of_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(folder / "run"), str(folder / "bare.tsv"), "--text", "1", "--label", "0"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["text", "label", "probability", "true"] and [line[3] for line in lines[1:3]] == ["0", "1"]
    assert [line[0] for line in lines[4:]] == ["accuracy", "f1", "matthews"]


def test_folders_of_classes_train_and_are_compared(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/neg/0.txt", "train/neg/1.txt", "train/pos/0.txt", "train/pos/1.txt", "train/README", "other/new/0.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    archive = shutil.make_archive(str(tmp_path / "held"), "zip", tmp_path / "train")
    arguments = ["--data", str(tmp_path / "train"), "--set", f"data.valid=[{archive}]", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["train", str(folder / "config.yaml"), *arguments]) == 0
    assert main(["classify", str(tmp_path / "run"), archive, str(tmp_path / "other"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = {one["text"]: one.get("true") for one in answer["texts"]}
    assert found == {f"{archive}/README": None, f"{tmp_path}/other/new/0.txt": None} | {
        f"{archive}/{label}/{number}.txt": label for label in ("neg", "pos") for number in range(2)
    }
    right = [one["label"] == one["true"] for one in answer["texts"] if "true" in one]
    assert answer["metrics"]["accuracy"] == pytest.approx(sum(right) / 4)


def test_a_text_from_stdin(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"text 4")))
    assert main(["classify", str(folder / "run"), "-"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["text", "label", "probability"] and row.split()[0] == "-"


def test_a_regression_model_gives_values(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = [
        "--set",
        "objective.columns.text=sentence",
        "--set",
        "objective.columns.label=mood",
        "--set",
        "model.problem_type=regression",
    ]
    arguments = [str(folder / "config.yaml"), "--data", str(folder / "table.jsonl"), "--out", str(tmp_path / "run"), *columns]
    assert main(["train", *arguments, "--steps", "1", "--quiet"]) == 0
    command = ["classify", str(tmp_path / "run"), str(folder / "table.jsonl")]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    texts = [f"text {number}" for number in range(30)]
    assert [row["value"] for row in answer["texts"]] == pytest.approx(subquad.regress(subquad.load(tmp_path / "run"), texts))
    assert set(answer["metrics"]) == {"pearson", "spearman"}
    assert main(command) == 0
    assert capsys.readouterr().out.split()[:3] == ["text", "value", "true"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("classify run", 2, "name at least one file"),
        ("classify run nowhere.tsv", 2, "nowhere.tsv"),
        ("classify run bare.tsv", 2, "expected a column 'sentence'"),
        ("classify run bare.tsv", 2, "--text sentence"),
        ("classify run bare.tsv --text 1 --label 5", 2, "expected a column 5, got 0, 1"),
        ("classify run bare.tsv --text 1 --label 1", 2, "the label 'text 0' is not one of the classes 0, 1, 2"),
        ("classify run table.jsonl --table xml", 2, "table"),
        ("classify . note.txt", 1, "not a run folder"),
        ("classify causal long.txt", 2, "expected a classifier, got LanguageModel"),
        ("generate run --prompt a", 2, "generating or scoring needs a causal model"),
        ("score run note.txt", 2, "generating or scoring needs a causal model"),
        ("train classifier --data table.jsonl --out new", 2, "a classifier needs a backbone"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    folder: Path, arguments: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(arguments.split()) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("subquad: ") and len(err.splitlines()) == 1
    assert "internal error" not in err and words in err
