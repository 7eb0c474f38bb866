"""The contract of an objective: its data and batches, its loss, its metrics, and what a report and a comparison show of a trained model.

Training asks an objective for batches by number, for the summed loss of each and for the metrics of held-out data; nothing else knows what
is learned. A model is reached through ``model(...)`` alone, so that what wraps it (``torch.compile``, DDP, FSDP) runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from subquad.config import Config
from subquad.data.config import DataConfig
from subquad.data.held_out import Way
from subquad.data.labelled import LabelColumns
from subquad.data.tokenizer import AnyTokenizer, open_tokenizer
from subquad.data.windows import Span
from subquad.models.base import BaseModelConfig, Model
from subquad.ops.autocast import at_least_float32
from subquad.sections import Section

BYTES = 256

Windowing = Literal["basic", "sliding", "strided", "both"]


@dataclass(frozen=True)
class Metric:
    """``name`` is its key in log.jsonl and results.json, ``label`` what tables and axes call it."""

    name: str
    label: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class Setup:
    """What an objective knows of a run: the model's config, the data, the seed, samples per step, and samples to validate on."""

    model: BaseModelConfig
    data: DataConfig
    seed: int
    batch_size: int
    eval_samples: int


@dataclass(frozen=True)
class TestOptions:
    """How the test part is evaluated: about ``max_bytes`` of text, scored by each of ``windowings``, ``batch_size`` samples at
    once."""

    __test__ = False  # not a test case, whatever pytest takes its name for

    max_bytes: int
    windowings: Sequence[Windowing]
    batch_size: int


@dataclass(frozen=True)
class TestResult:
    """The results of a model on the test part.

    ``loss`` is in the loss metric's unit, one value per windowing, including "basic"; ``metrics`` are others by name. ``inside`` holds the
    mean loss at each position inside a patch and ``by_position`` over equal parts of the context, empty if there are none.
    """

    __test__ = False

    loss: Mapping[str, float]
    scored_bytes: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    inside: Sequence[float] = ()
    by_position: Sequence[float] = ()


class Baseline(NamedTuple):
    """What something simple reaches on the test part: its name, and its ``value`` of the metric called ``metric``."""

    name: str
    metric: str
    value: float


class Batch(Protocol):
    """Samples that a step learns from; an accumulated step takes some of the rows at a time."""

    def rows(self, first: int, stop: int) -> Self: ...


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class ModelRunner:
    """A module, plain or wrapped, with the device and the precision that it runs in; its inputs are numpy arrays or plain values."""

    module: nn.Module
    device: torch.device
    bfloat16: bool = False

    @classmethod
    def of(cls, model: Model, dtype: str = "float32") -> ModelRunner:
        """A plain model where its weights are."""
        return cls(model, next(model.parameters()).device, dtype == "bfloat16")

    def run(self, inputs: Mapping[str, Any]) -> Tensor:
        """``module(**inputs)`` under autocast where asked, the result in float32 or better; arrays become tensors on the device."""
        tensors = {name: self.tensor(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
        with self.autocast():
            output: Tensor = self.module(**tensors)
        return output.to(at_least_float32(output.dtype))

    def tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        """An array on the device; integers become int64."""
        tensor = torch.from_numpy(array).to(self.device)
        return tensor.long() if array.dtype.kind in "iu" else tensor

    def autocast(self) -> AbstractContextManager[Any]:
        """PyTorch's mixed precision, or nothing."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


class ObjectiveConfig(Config, ABC):
    """Base of the objectives' configs, the section ``objective`` of train.yaml. ``kind`` is the name in the table of ``OBJECTIVES``.

    A metric called ``accuracy``, where there is one, decides which validation is the best, before the loss; ``eval.stop.accuracy`` and the
    accuracy table of a comparison read it too.

    ``METRICS`` are all that it may report; ``READS`` names the fields of ``DataConfig`` that it reads, ``COMPLETES`` those of the model's
    config that the data fill in; ``MODELS`` says in errors which models it trains, ``NEXT`` at the end of a run which command uses it.
    ``GENERATES`` says that its models write samples, ``READS_TASKS`` that synthetic tasks are data for it.
    """

    METRICS: ClassVar[tuple[Metric, ...]]
    READS: ClassVar[frozenset[str]]
    COMPLETES: ClassVar[frozenset[str]] = frozenset()
    GENERATES: ClassVar[bool] = False
    NEXT: ClassVar[str] = "subquad embed {run} FILE... -o vectors.npy"
    READS_TASKS: ClassVar[bool] = False

    MODELS: ClassVar[str] = "another model"

    kind: str

    @classmethod
    @abstractmethod
    def trains(cls, model: BaseModelConfig) -> bool:
        """Whether this objective can train a model of this config."""

    @abstractmethod
    def build(self, setup: Setup) -> Objective[Any]:
        """The objective with its data opened. Raises ``ValueError`` for wrong data."""

    def loss_metric(self, model: BaseModelConfig, task: bool = False) -> Metric:
        """The loss of such a model, on a synthetic ``task`` or other data: its name in the log, its label; lower is better."""
        return self.METRICS[0]

    def reading_inputs(self, model: Model, length: int) -> dict[str, Any]:
        """The arguments beside ids (B, ``length``) with which a model reads them without further output."""
        return {}

    @property
    def text_columns(self) -> LabelColumns:
        """Where a table has the texts that a model of this objective reads, unless told otherwise."""
        return LabelColumns()

    @property
    def logits_share(self) -> float | None:
        """The share of positions whose logits a training step computes; None if samples have no fixed length, so that FLOPs are not
        counted."""
        return None


class Objective(ABC, Generic[B]):
    """What is learned, with its data. ``model_config`` is the model's config, completed by what the data say (the classes of labels).

    After ``prepare`` the methods below it may be called.
    """

    model_config: BaseModelConfig
    tokenizer: AnyTokenizer | None = None
    split_by: Way | Literal["auto"] = "auto"  # how ``prepare`` has split the data, where there are several ways

    @property
    @abstractmethod
    def loss_metric(self) -> Metric:
        """The metric that is minimised."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the data: a resumed run must have the same value."""

    @property
    @abstractmethod
    def window(self) -> int | None:
        """The largest number of ids of a sample; None if texts are read whole. Raises ``ValueError`` for more than the model's context."""

    @abstractmethod
    def prepare(self, model: Model, tokenizer: Path | None = None) -> None:
        """Splits the data and makes its samples; the model gets the tokenizer, read from the file ``tokenizer`` of a run that has one.

        Raises ``ValueError`` for data, tokenizer and model that do not fit each other.
        """

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics of ``evaluate``, the loss first; empty without a validation part."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What data.json says of the data and their split."""

    @abstractmethod
    def batch(self, first: int, count: int) -> B:
        """Samples first .. first + count - 1 of an endless order, a pure function of these numbers and the seed."""

    def largest_batch(self, count: int) -> tuple[int, int]:
        """Rows and columns of the ids that a model reads of ``count`` samples, at most."""
        return count, self.window or self.model_config.base_model.max_len

    @abstractmethod
    def loss(self, model: ModelRunner, batch: B) -> Tensor:
        """The loss of a batch, summed over its targets."""

    @abstractmethod
    def num_targets(self, batch: B) -> int:
        """The number of targets that the loss is summed over, at least 1; the gradient is that of the mean."""

    @abstractmethod
    def num_bytes(self, batch: B) -> int:
        """The number of bytes of data in the loss."""

    def mean_loss(self, total: float, batch: B) -> float:
        """A summed loss in the unit of the loss metric."""
        return total / self.num_targets(batch)

    @abstractmethod
    def evaluate(self, model: ModelRunner, batch_size: int) -> dict[str, float]:
        """The metrics ``metric_names`` of the validation part, read ``batch_size`` samples at a time."""

    @property
    @abstractmethod
    def has_test(self) -> bool:
        """Whether the data have a test part."""

    @abstractmethod
    def test(self, model: Model, options: TestOptions) -> TestResult:
        """The results on the test part, for a report or a comparison. Raises ``RunError`` if there is none."""

    def baseline(self, options: TestOptions) -> Baseline | None:
        """What to compare ``test`` with, None without anything simple."""
        return None

    def sections(self, model: Model) -> list[Section]:
        """What a report shows of a trained model beside its curves."""
        return []


def settle_tokenizer(model: Model, data: DataConfig, file: Path | None, spans: Sequence[Span]) -> AnyTokenizer | None:
    """The tokenizer of a run: from the file of a resumed run, or as ``data.tokenizer`` says; the model gets it.

    Raises ``ValueError`` if the model's weights were trained with another one, or its vocabulary is too small.
    """
    tokenizer = None if data.tokenizer is None else open_tokenizer(file or data.tokenizer, spans, model.reversible)
    before = model.tokenizer
    if before is not None and (tokenizer is None or tokenizer.to_bytes() != before.to_bytes()):
        raise ValueError("the initial weights were trained with another tokenizer: leave data.tokenizer out to use that one")
    if tokenizer is None and model.vocab != BYTES:
        raise ValueError(
            f"the model has a vocabulary of {model.vocab} and the data are bytes, which are {BYTES} ids: set model.vocab={BYTES}, or name "
            "a tokenizer in data.tokenizer"
        )
    if tokenizer is not None and model.vocab < tokenizer.vocab:
        size = tokenizer.vocab
        raise ValueError(f"the tokenizer has {size} tokens and the model a vocabulary of {model.vocab}: set model.vocab={size}, or more")
    model.tokenizer = tokenizer
    return tokenizer
