"""``subquad compare`` with everything behind it, on a text of a few kilobytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from subquad.cli import main

EXPERIMENT = {
    "title": "Two sizes",
    "about": "Shows that it works.",
    "models": {
        "small": {"preset": "transformer-tiny", "set": {"stack.dim": 8, "max_len": 32}, "lr": 0.01},
        "large": {"preset": "transformer-tiny", "set": {"stack.dim": 16, "max_len": 32}, "lr": 0.01},
    },
    "data": {"text": {"paths": "text.txt", "score_bytes": 200}},
    "budget": {"bytes": 640},
    "train": {"batch": 2, "threads": 1, "dtype": "float32", "device": "cpu"},
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_bytes(b"".join(b"line %d of a text\n" % number for number in range(300)))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    return path


def compare(file: Path, *arguments: str, out: str = "out") -> int:
    return main(["compare", str(file), "--out", str(file.parent / out), "--jobs", "0", "--quiet", *arguments])


def test_tables_and_json_tell_the_same(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(file) == 0
    printed = capsys.readouterr().out
    assert compare(file, "--resume", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert [outcome["model"] for outcome in results["outcomes"]] == ["large", "small"]  # as the file has them
    for outcome in results["outcomes"]:
        assert f"{outcome['loss']['basic']:.3f}" in printed
    assert str(file.parent / "out" / "report.html") in printed
    assert "--resume" not in results["command"] and "--json" not in results["command"]


def test_data_replaces_the_files_of_the_experiment(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = file.parent / "mine.txt"
    mine.write_bytes(b"another text altogether, " * 200)
    assert compare(file, "--data", f"text={mine}", "--quick", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert "quick" in results["title"] and all(outcome["status"] == "done" for outcome in results["outcomes"])
    saved = yaml.safe_load((file.parent / "out" / "experiment.yaml").read_text(encoding="utf-8"))
    assert saved["data"]["text"]["paths"] == [str(mine)]


def test_a_cell_that_fails_is_an_error_and_the_tables_are_printed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "text.txt").write_bytes(b"x")
    assert compare(file) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "2 of 2 cells failed, the first: text/large-seed0 failed:" in printed.err
    assert "too few to split" in printed.err and "--resume tries them again" in printed.err
    assert "Two sizes" in printed.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.yaml", "--out", "x"], "there is no file 'none.yaml'"),
        (["two.yaml"], "--out is missing"),
        ([], "name an experiment file"),
        (["two.yaml", "--out", "x", "--data", "text.txt"], "--data expects NAME=PATH"),
        (["two.yaml", "--out", "x", "--data", "txt=text.txt"], "no data set 'txt': did you mean 'text'"),
        (["two.yaml", "--out", "x", "--data", "text=a", "--data", "text=b"], "--data text is given twice"),
        (["two.yaml", "--out", "x", "--jobs", "-1"], "jobs must be 1 or more, or 0"),
        (["two.yaml", "--out", "x", "--resme"], "did you mean '--resume'"),
        (["two.yaml", "--out", "."], "is not empty and is not a comparison"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    file: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(file.parent)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not Path("x").exists()
