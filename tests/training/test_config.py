"""train.yaml: typos get the right key, numbers survive the file, torch stays out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from subquad.config import override, parse
from subquad.errors import RunError
from subquad.training.config import TrainConfig, as_yaml, differences, read

VALUES: dict[str, Any] = {"model": {"kind": "language_model"}}


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"step": 3}, "steps"),
        ({"optim": {"weight_decai": 0.1}}, "weight_decay"),
        ({"schedule": {"warm_up": 1}}, "warmup"),
        ({"data": {"windows": 1}}, "window"),
    ],
)
def test_a_misspelt_key_suggests_the_right_one(values: dict[str, Any], meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        parse(TrainConfig, {**VALUES, **values})


def test_a_dotted_override_suggests_too() -> None:
    values = parse(TrainConfig, VALUES).model_dump(mode="json")
    with pytest.raises(ValueError, match="unknown key 'lrr' in 'optim': did you mean 'lr'"):
        override(values, {"optim.lrr": 1})


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"batch": 4, "accumulate": 3}, {"dtype": "float8"}, {"schedule": {"kind": "step"}}, {"seed": -1}]
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got|must divide"):
        parse(TrainConfig, {**VALUES, **values})


def test_the_file_holds_the_config(tmp_path: Path) -> None:
    config = parse(TrainConfig, {**VALUES, "optim": {"lr": 1e-3 / 3}, "data": {"paths": ["ü.txt"]}, "eval": {"prompt": "a: #b\n"}})
    (tmp_path / "train.yaml").write_bytes(as_yaml(config))
    assert read(tmp_path) == read(tmp_path / "train.yaml") == config


@pytest.mark.parametrize("text", [b"a: [", b"\xff", b"- 1"])
def test_a_broken_file_is_a_sentence(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_bytes(text)
    with pytest.raises(RunError, match=r"train\.yaml"):
        read(tmp_path)


def test_differences_are_named_as_overrides() -> None:
    config = parse(TrainConfig, VALUES)
    other = parse(TrainConfig, override(config.model_dump(mode="json"), {"steps": 5, "eval.windows": 2, "model.kind": "megabyte"}))
    assert differences(config, config) == []
    assert differences(config, other) == ["eval.windows", "model.kind", "steps"]


def test_the_config_needs_no_torch() -> None:
    code = "import sys, subquad.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
