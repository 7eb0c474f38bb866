"""The split of a run: decided and said at its start, written down, and kept when it is resumed, by an earlier version's run too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from subquad import api
from subquad.run_folder import seal
from subquad.training.config import read

MODEL = {"kind": "language_model", "max_len": 32, "stack": {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2}}}
OPTIONS: dict[str, Any] = {"steps": 2, "batch": 2, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def data(tmp_path: Path) -> str:
    for number in range(30):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / f"data/{number}.txt").write_bytes(b"%02d" % number * (20 + number))
    (tmp_path / "data/book").write_bytes(b"It was the best of times. " * 9000)
    return str(tmp_path / "data")


def test_it_is_said_and_written_down(data: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = api.train(MODEL, data, tmp_path / "run", OPTIONS)
    said = capfd.readouterr().err
    assert "to train on" in said and "held out: the ends of 1 without suffix; " in said and " of 30 .txt" in said
    record = json.loads((run / "data.json").read_text())["split"]
    assert read(run).data.split == record["by"] == "stratified"
    assert list(record["kinds"]) == ["without suffix", ".txt"] and len(record["boundaries"]["valid"]) == 1
    assert record["held_out"]["valid"] and all(name.endswith(".txt") for name in record["held_out"]["valid"])


def test_a_run_of_an_earlier_version_keeps_its_split(data: str, tmp_path: Path) -> None:
    run = api.train(MODEL, data, tmp_path / "run", OPTIONS | {"data.split": "range"}, quiet=True)
    values = yaml.safe_load((run / "train.yaml").read_text())
    (run / "train.yaml").write_text(yaml.safe_dump(values | {"data": values["data"] | {"split": "auto"}}))
    (run / "manifest.json").unlink()
    seal(run)
    before = (run / "data.json").read_bytes()
    api.train(None, None, run, {"steps": 3}, resume=True, quiet=True)
    assert read(run).data.split == "range" and (run / "data.json").read_bytes() == before
    again = api.train(run / "train.yaml", None, tmp_path / "again", quiet=True)
    assert json.loads((again / "data.json").read_text())["split"]["by"] == "range"
