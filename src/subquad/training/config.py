"""What a training run is told: one config, written as train.yaml into the run folder. Needs no torch.

A field that is None or "auto" is decided when the run starts; train.yaml then holds the number that was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from subquad.config import Config, Paths, parse
from subquad.data.corpus import Form
from subquad.data.images import ImageShape
from subquad.data.labelled import LabelColumns
from subquad.data.masking import MaskConfig
from subquad.data.pairs import PairColumns
from subquad.errors import RunError


class DataConfig(Config):
    """``paths`` as ``Corpus.open`` takes them; ``split_seed`` None is the run's seed.

    ``window`` in bytes, None for an image's size or else the model's context.

    ``tokenizer`` makes windows of tokens, which ``window`` then counts: the path of a tokenizer.json, the number of tokens of one to be
    trained on the training part (byte pairs; for an encoder WordPiece), or "dna" for HyenaDNA's characters.

    A classifier reads tables of texts and labels, see ``data/labelled.py``: ``valid`` and ``test`` name those that are held out,
    ``columns`` says where texts and labels are, and ``window`` cuts longer texts. An encoder without a head reads tables of pairs in the
    same way, see ``data/pairs.py``; ``pairs`` says where queries and passages are.
    """

    paths: Paths = ()
    format: Form = "raw"
    split: Literal["auto", "document", "range"] = "auto"
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    split_seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    window: int | None = Field(default=None, gt=0)
    pack: bool = False
    shift: bool = True
    image: ImageShape | None = None
    tokenizer: str | int | None = None
    valid: Paths = ()
    test: Paths = ()
    columns: LabelColumns = LabelColumns()
    pairs: PairColumns = PairColumns()

    @model_validator(mode="after")
    def _reads_text(self) -> DataConfig:
        if self.tokenizer is not None and self.image is not None:
            raise ValueError("images have no tokens: leave out tokenizer, or image")
        if self.format != "raw" and self.image is not None:
            raise ValueError(f"files are images or {self.format}, not both: leave out format, or image")
        return self


class ContrastConfig(Config):
    """How an encoder learns from pairs, see ``ops/contrast.py``: by InfoNCE at a ``temperature``, or by the orthogonal loss."""

    loss: Literal["infonce", "orthogonal"] = "infonce"
    temperature: float = Field(default=0.05, gt=0)


class OptimConfig(Config):
    """AdamW; ``lr`` None is 0.5 / the model's width, of an encoder at most 1e-3, ``clip`` None leaves gradients as they are."""

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
    """When a run ends before its last step: at a validation that gives this share of the answers right, or at the last of ``patience``
    validations in a row that are no better than the best."""

    accuracy: float | None = Field(default=None, gt=0, le=1)
    patience: int | None = Field(default=None, gt=0)


class EvalConfig(Config):
    """Every so many steps: bits per byte of ``windows`` validation windows, and ``sample_bytes`` bytes written after ``prompt``.

    On a task with answers, validation is of the answers alone, and of how many are right.
    """

    every: int = Field(default=250, gt=0)
    windows: int = Field(default=64, ge=0)
    sample_bytes: int = Field(default=0, ge=0)
    prompt: str = ""
    stop: StopConfig = StopConfig()


class SaveConfig(Config):
    """A resumable checkpoint every so many steps, of which the last ``keep`` stay."""

    every: int = Field(default=250, gt=0)
    keep: int = Field(default=2, gt=0)


class TrainConfig(Config):
    """Everything that repeats a run.

    ``batch`` counts windows a step, cut into ``accumulate`` equal parts; ``mask`` says what an encoder has to guess, ``contrast``
    how it learns from pairs; ``init`` is a run whose weights were the start.
    """

    model: dict[str, Any]
    data: DataConfig = DataConfig()
    mask: MaskConfig = MaskConfig()
    contrast: ContrastConfig = ContrastConfig()
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
    threads: int | None = Field(default=None, gt=0)
    eval: EvalConfig = EvalConfig()
    save: SaveConfig = SaveConfig()
    track: Literal["tensorboard"] | None = None
    init: str | None = None

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} must divide batch={self.batch}: change one of them")
        return self


def read(path: str | Path) -> TrainConfig:
    """The config of a train.yaml, or of a run folder that holds one.

    Raises ``RunError`` when the file is missing or no YAML, ``ValueError`` for an unknown key or a wrong value.
    """
    path = Path(path)
    path = path / "train.yaml" if path.is_dir() else path
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        raise RunError(f"{path} holds a {type(values).__name__}, expected a mapping of keys to values")
    return parse(TrainConfig, values)


def as_yaml(config: TrainConfig) -> bytes:
    """The text of train.yaml."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode("utf-8")


def differences(first: TrainConfig, second: TrainConfig) -> list[str]:
    """Keys, as ``--set`` takes them, in which two configs differ."""
    one, other = _flat(first.model_dump(mode="json")), _flat(second.model_dump(mode="json"))
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
