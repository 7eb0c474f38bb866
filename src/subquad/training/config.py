"""The config of a training run, written as train.yaml into the run folder.

A field that is None or "auto" is decided when the run starts; train.yaml then has the decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from subquad.config import Config, parse, read_yaml, with_changes
from subquad.data.config import DataConfig
from subquad.data.held_out import WAYS
from subquad.errors import RunError
from subquad.models import AnyModelConfig
from subquad.objectives import AnyObjectiveConfig, default_objective
from subquad.objectives.base import Setup
from subquad.parsing import parse_json, read_text


class OptimConfig(Config):
    """AdamW; ``lr`` None is the model's own (``default_lr``), ``clip`` None leaves gradients as they are."""

    lr: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float | None = Field(default=1.0, gt=0)


class ScheduleConfig(Config):
    """The learning rate over the steps, see ``training/schedule.py``; ``end`` and ``decay`` are fractions of the peak and of the steps.

    ``warmup`` None is 500 steps, or a tenth of the steps when that is fewer.
    """

    kind: Literal["polynomial", "cosine", "wsd"] = "polynomial"
    warmup: int | None = Field(default=None, ge=0)
    power: float = Field(default=1.0, gt=0)
    end: float = Field(default=0.0, ge=0, le=1)
    decay: float = Field(default=0.2, ge=0, le=1)


class StopConfig(Config):
    """When a run ends before its last step: at a validation with this accuracy, or after ``patience`` validations in a row without
    improvement."""

    accuracy: float | None = Field(default=None, gt=0, le=1)
    patience: int | None = Field(default=None, gt=0)


class EvalConfig(Config):
    """Every ``every`` steps: the metrics of ``windows`` validation windows, and ``sample_bytes`` bytes generated after ``prompt``.

    On a task, validation is of the answers alone, with their accuracy.
    """

    every: int = Field(default=250, gt=0)
    windows: int = Field(default=64, ge=0)
    sample_bytes: int = Field(default=0, ge=0)
    prompt: str = ""
    stop: StopConfig = StopConfig()


class SaveConfig(Config):
    """A resumable checkpoint every ``every`` steps; the last ``keep`` are kept."""

    every: int = Field(default=250, gt=0)
    keep: int = Field(default=2, gt=0)


class TrainConfig(Config):
    """The config of a run, enough to repeat it.

    ``objective`` None is the first of the table that trains the model. ``batch`` is the number of samples per step, cut into ``accumulate``
    equal parts; ``init`` is a run that gives the initial weights.
    """

    model: AnyModelConfig
    data: DataConfig = DataConfig()
    objective: AnyObjectiveConfig | None = None
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    steps: int = Field(default=1000, gt=0)
    batch: int = Field(default=8, gt=0)
    accumulate: int = Field(default=1, gt=0)
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    checkpoint_activations: bool = False
    threads: int | None = Field(default=None, gt=0, le=1024)
    eval: EvalConfig = EvalConfig()
    save: SaveConfig = SaveConfig()
    track: Literal["tensorboard"] | None = None
    init: str | None = None

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} must divide batch={self.batch}: change one of them")
        return self

    @model_validator(mode="after")
    def _is_read(self) -> TrainConfig:
        """Refuses settings that the objective would not read."""
        objective = self.objective
        if objective is None:
            return self
        if not objective.trains(self.model):
            raise ValueError(
                f"the objective {objective.kind!r} does not train this model of kind {self.model.kind!r}: use {objective.MODELS}, or "
                "leave objective.kind out"
            )
        read = objective.READS | {"paths", "fractions", "split_seed", "window", "tokenizer"}
        changed = [name for name, value in self.data if name not in read and value != getattr(DataConfig(), name)]
        if changed:
            raise ValueError(f"the objective {objective.kind!r} does not read data.{changed[0]}: leave it out")
        if self.eval.sample_bytes and not objective.GENERATES:
            raise ValueError(
                f"models of the objective {objective.kind!r} cannot generate samples, got eval.sample_bytes={self.eval.sample_bytes}: "
                "leave it out"
            )
        return self

    @property
    def setup(self) -> Setup:
        """What the objective knows of the run."""
        return Setup(self.model, self.data, self.seed, self.batch, self.eval.windows)


def build_config(values: Mapping[str, Any], options: Mapping[str, Any]) -> TrainConfig:
    """The config of a train.yaml's mapping with options by dotted or nested name, and with an objective.

    An objective that only the file names gives way where the options change the model to one that it does not train. Raises
    ``ValueError`` for an unknown key, a wrong value, and settings that do not fit each other.
    """
    section = {name: value for name, value in options.items() if name.split(".")[0] == "objective"}
    others = {name: value for name, value in options.items() if name not in section}
    config = with_changes(parse(TrainConfig, {**values, "objective": None}), others)
    objective = parse(_Section, {"objective": values.get("objective")}).objective
    if objective is not None and not objective.trains(config.model) and any(name.split(".")[0] == "model" for name in others):
        objective = None
    if (whole := section.pop("objective", None)) is not None:
        whole = {"kind": whole} if isinstance(whole, str) else whole
        if not isinstance(whole, Mapping):
            raise ValueError(f"'objective' is a kind or a mapping of its settings, got {whole!r}")
        section = {f"objective.{name}": value for name, value in whole.items()} | section
    kind = section.pop("objective.kind", None)
    if kind is not None and (objective is None or objective.kind != kind):
        objective = parse(_Section, {"objective": {"kind": kind}}).objective
    objective = objective or default_objective(config.model)
    config = parse(TrainConfig, config.model_dump(mode="json") | {"objective": objective.model_dump(mode="json")})
    return with_changes(config, section) if section else config


class _Section(Config):
    """An objective alone."""

    objective: AnyObjectiveConfig | None


def read(path: str | Path) -> TrainConfig:
    """The config of a train.yaml, or of a run folder that holds one.

    Raises ``ValueError`` for a file that is missing or not YAML, an unknown key or a wrong value; ``RunError`` where the file of a run
    folder cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return parse(TrainConfig, _upgraded(read_yaml(path)))
    try:
        values = read_yaml(path / "train.yaml")
    except ValueError as error:
        raise RunError(str(error)) from error
    return parse(TrainConfig, _decided(_upgraded(values), path))


def _decided(values: Mapping[str, Any], run: Path) -> Mapping[str, Any]:
    """A mapping with the way in which ``run`` has split its data, which earlier versions recorded in data.json alone."""
    data = values.get("data")
    if not isinstance(data, Mapping) or data.get("split", "auto") != "auto":
        return values
    try:
        way = parse_json(read_text(run / "data.json"))["split"]["by"]
    except (OSError, ValueError, TypeError, KeyError):
        return values
    return {**values, "data": {**data, "split": way}} if way in WAYS else values


def _upgraded(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A mapping of version 0.1.0, which had every objective's settings side by side, with the section ``objective`` in their place."""
    data = values.get("data") or {}
    if (
        "objective" in values
        or not isinstance(data, Mapping)
        or not ({"mask", "contrast"} & values.keys() or {"columns", "pairs"} & data.keys())
    ):
        return values
    objective = default_objective(parse(_Model, {"model": values.get("model")}).model)
    sections: dict[str, Any] = {
        "masked_lm": values.get("mask", {}),
        "classification": {"columns": data.get("columns", {})},
        "contrastive": {**values.get("contrast", {}), "columns": data.get("pairs", {})},
    }
    upgraded = {name: value for name, value in values.items() if name not in ("mask", "contrast")}
    upgraded["data"] = {name: value for name, value in data.items() if name not in ("columns", "pairs")}
    return {**upgraded, "objective": {"kind": objective.kind, **sections.get(objective.kind, {})}}


class _Model(Config):
    """A model alone."""

    model: AnyModelConfig


def as_yaml(config: TrainConfig) -> bytes:
    """The text of train.yaml."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode("utf-8")
