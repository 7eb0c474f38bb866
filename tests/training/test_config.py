"""train.yaml: typos get the right key, numbers survive the file, the objective is that of the model, old files still load."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from subquad.config import differences, override, parse
from subquad.data.labelled import LabelColumns
from subquad.errors import RunError
from subquad.layers.registry import MIXERS
from subquad.models import MODELS, presets
from subquad.objectives import OBJECTIVES
from subquad.objectives.classification import ClassificationConfig
from subquad.objectives.contrastive import ContrastiveConfig
from subquad.objectives.masked_lm import MaskedLMConfig
from subquad.training.config import TrainConfig, as_yaml, build_config, read

TEXT_X = LabelColumns(text="x")
VALUES: dict[str, Any] = {"model": "transformer-tiny"}


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
    other = parse(TrainConfig, override(config.model_dump(mode="json"), {"steps": 5, "eval.windows": 2, "model.stack.dim": 32}))
    assert differences(config, config) == []
    assert differences(config, other) == ["eval.windows", "model.stack.dim", "steps"]


@pytest.mark.parametrize(
    ("model", "options", "kind"),
    [
        ("transformer-tiny", {}, "next_token"),
        ("m2-bert-tiny", {}, "masked_lm"),
        ("m2-bert-tiny", {"model.head": "none"}, "contrastive"),
        ({"kind": "classifier", "backbone": "transformer-tiny"}, {}, "classification"),
        ("m2-bert-tiny", {"model.head": "none", "objective.temperature": 0.5}, "contrastive"),
        ("m2-bert-tiny", {"objective": {"kind": "masked_lm"}}, "masked_lm"),
        ("m2-bert-tiny", {"objective": "masked_lm"}, "masked_lm"),
    ],
)
def test_the_objective_is_the_first_that_trains_the_model(model: Any, options: dict[str, Any], kind: str) -> None:
    objective = build_config({"model": model}, options).objective
    assert objective is not None and objective.kind == kind
    assert getattr(objective, "temperature", 0.05) == options.get("objective.temperature", 0.05)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "masked_lm"}, "the objective 'masked_lm' does not train this model of kind 'language_model'"),
        ({"objective": 3}, "'objective' is a kind or a mapping of its settings, got 3"),
        ({"objective": [1]}, "'objective' is a kind or a mapping of its settings"),
        ({"model.stack.mixer": 3}, "expected a mapping with the 'kind' of the mixer, got 3"),
        ({"objective.kind": "masked"}, "unknown objective 'masked': did you mean 'masked_lm'"),
        ({"objective.temprature": 1}, "unknown key 'temprature' in 'objective'"),
        ({"data.valid": "x.tsv"}, "the objective 'next_token' does not read data.valid"),
    ],
)
def test_what_the_objective_does_not_read_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_config(VALUES, options)


def test_options_change_the_objective_of_a_file() -> None:
    file = {"model": "m2-bert-tiny", "objective": {"kind": "masked_lm", "mlm_probability": 0.4}}
    for same in ({}, {"objective.kind": "masked_lm"}, {"objective": "masked_lm"}, {"objective": None}):
        assert build_config(file, same).objective == MaskedLMConfig(mlm_probability=0.4)
    assert build_config(file, {"objective.mlm_probability": 0.5}).objective == MaskedLMConfig(mlm_probability=0.5)
    assert build_config(file, {"model.head": "none"}).objective == ContrastiveConfig()
    pairs = build_config(file, {"model.head": "none", "objective": "contrastive", "objective.temperature": 0.2}).objective
    assert pairs == ContrastiveConfig(temperature=0.2)
    with pytest.raises(ValueError, match="the objective 'contrastive' does not train this model"):
        build_config({"model": "m2-bert-tiny", "objective": "contrastive"}, {})


def test_an_editor_finds_every_kind_in_the_schema() -> None:
    schema = TrainConfig.model_json_schema()
    kinds = set(re.findall(r'"const": "(\w+)"', json.dumps(schema)))
    assert {*OBJECTIVES, *MIXERS, *MODELS} <= kinds
    assert "megabyte-tiny" in schema["properties"]["model"]["anyOf"][-1]["enum"]


@pytest.mark.parametrize("values", [{"mask": {"train": 0.4}}, {"contrast": {"loss": "orthogonal"}}, {"data": {"columns": {"text": "x"}}}])
def test_a_file_of_0_1_0_by_hand_may_name_few_settings(tmp_path: Path, values: dict[str, Any]) -> None:
    encoder = presets()["m2-bert-tiny"].model_dump(mode="json")
    models = {"mask": encoder, "contrast": encoder | {"head": "none"}, "data": {"kind": "classifier", "backbone": encoder}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"model": models[next(iter(values))], **values}))
    objective = read(tmp_path).objective
    assert objective in (MaskedLMConfig(mlm_probability=0.4), ContrastiveConfig(loss="orthogonal"), ClassificationConfig(columns=TEXT_X))


def test_a_file_of_0_1_0_has_its_settings_in_the_objective(tmp_path: Path) -> None:
    columns = {"text": "sentence", "label": "mood", "second": None, "joint": "\n", "table": None}
    pairs = {"query": "question", "passage": "answer", "negative": None, "table": None}
    old: dict[str, Any] = {"data": {"paths": ["x.tsv"], "columns": columns, "pairs": pairs}, "mask": {"train": 0.4}}
    old |= {"contrast": {"loss": "orthogonal", "temperature": 0.1}, "steps": 7}
    encoder = presets()["m2-bert-tiny"].model_dump(mode="json")
    models = {
        "masked_lm": encoder,
        "contrastive": encoder | {"head": "none"},
        "classification": {"kind": "classifier", "backbone": encoder},
    }
    for kind, model in models.items():
        (tmp_path / "train.yaml").write_text(yaml.safe_dump({"model": model, **old}))
        config = read(tmp_path)
        assert config.objective is not None and config.objective.kind == kind and config.steps == 7
        (tmp_path / "train.yaml").write_bytes(as_yaml(config))
        assert read(tmp_path) == config
        if isinstance(config.objective, ContrastiveConfig):
            assert (config.objective.loss, config.objective.columns.query) == ("orthogonal", "question")
        if isinstance(config.objective, ClassificationConfig):
            assert (config.objective.columns.text, config.objective.columns.label) == ("sentence", "mood")
        if isinstance(config.objective, MaskedLMConfig):
            assert config.objective.logits_share == 0.4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optim.lr": math.inf}, "'optim.lr': expected a finite number, got inf"),
        ({"optim.lr": math.nan}, "'optim.lr': expected"),
        ({"model.init_std": math.inf}, "'model.init_std': expected a finite number, got inf"),
        ({"threads": 1_000_000}, "'threads': expected a value less than or equal to 1024, got 1000000"),
        ({"optim": 3}, "'optim': expected a mapping of settings, got 3"),
        ({"data": 5, "data.paths": "x"}, "'data' is 5, expected a mapping with the key 'paths'"),
        ({"model.stages": 7}, "'model.stages': expected a list, got 7"),
    ],
)
def test_what_no_run_can_use_is_refused_in_plain_words(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        build_config({"model": "megabyte-tiny"}, changes)
    assert sentence in str(refused.value)
