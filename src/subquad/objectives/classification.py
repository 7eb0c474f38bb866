"""Learning the labels of texts: classes by cross entropy, or values by squared error (regression), with GLUE's metrics.

Texts of a batch are padded on the right to the longest, which changes no result. A batch has its shortest texts first, so that the parts it
is accumulated in are of nearly one length, and short where that is. B batch, T ids, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.config import with_changes
from subquad.data.batching import order_by_length, pad
from subquad.data.labelled import Example, LabelColumns, Labelled, read_labelled
from subquad.data.shuffle import Integers
from subquad.data.tokenizer import count_bytes
from subquad.data.windows import Ids
from subquad.errors import RunError
from subquad.metrics import classification_metrics, regression_metrics, require
from subquad.models.base import BaseModelConfig, Model
from subquad.models.classifier import ClassifierConfig
from subquad.objectives.base import Baseline, Metric, ModelRunner, ObjectiveConfig, Setup, TestOptions, TestResult
from subquad.objectives.texts import TextObjective, encode_text
from subquad.parsing import shortened
from subquad.sections import Section, Table

Numbers = npt.NDArray[np.float64]

CROSS_ENTROPY = Metric("cross_entropy", "nats per label")
SQUARED_ERROR = Metric("squared_error", "squared error, in units of the variance")
CLASS_METRICS = (
    CROSS_ENTROPY,
    Metric("accuracy", "accuracy", higher_is_better=True),
    Metric("f1", "F1", higher_is_better=True),
    Metric("matthews", "Matthews correlation", higher_is_better=True),
)
VALUE_METRICS = (
    SQUARED_ERROR,
    Metric("pearson", "Pearson correlation", higher_is_better=True),
    Metric("spearman", "Spearman correlation", higher_is_better=True),
)
MOST_CLASSES = 20  # of a confusion matrix
_WRONG, _RIGHT, _EXCERPT = 8, 4, 240  # examples that a report shows, and characters of each
_LABEL = 40  # characters of a label in a sentence


class ClassificationConfig(ObjectiveConfig):
    """``columns`` says where a table has its texts and labels, see ``data/labelled.py``."""

    METRICS: ClassVar[tuple[Metric, ...]] = (*CLASS_METRICS, *VALUE_METRICS)
    READS: ClassVar[frozenset[str]] = frozenset({"valid", "test"})
    MODELS: ClassVar[str] = "the model classifier"
    NEXT: ClassVar[str] = "subquad classify {run} FILE..."
    COMPLETES: ClassVar[frozenset[str]] = frozenset({"classes", "target_mean", "target_std"})

    kind: Literal["classification"] = "classification"
    columns: LabelColumns = LabelColumns()

    @classmethod
    def trains(cls, model: BaseModelConfig) -> bool:
        return isinstance(model, ClassifierConfig)

    @property
    def text_columns(self) -> LabelColumns:
        return self.columns

    def loss_metric(self, model: BaseModelConfig, task: bool = False) -> Metric:
        return SQUARED_ERROR if _is_regression(model) else CROSS_ENTROPY

    def build(self, setup: Setup) -> Classification | Regression:
        """The texts with their labels, and the model's config with the classes, or with the mean and deviation of the values."""
        require()
        data, model, regression = setup.data, setup.model, _is_regression(setup.model)
        assert isinstance(model, ClassifierConfig)
        seed = setup.seed if data.split_seed is None else data.split_seed
        texts = read_labelled(data.paths, data.valid, data.test, self.columns, data.fractions, seed, model.classes, regression)
        if regression:
            return Regression(setup, texts, with_changes(model, _mean_and_std(texts)))
        return Classification(setup, texts, with_changes(model, {"classes": list(texts.classes)}))


@dataclass(frozen=True)
class TextBatch:
    """``ids`` (B, T), of which row b has ``lengths[b]``, and ``labels`` (B,), classes by number or values."""

    ids: Ids
    lengths: Integers
    labels: Integers | Numbers

    def rows(self, first: int, stop: int) -> TextBatch:
        """Some of its texts."""
        return TextBatch(self.ids[first:stop], self.lengths[first:stop], self.labels[first:stop])


class Texts:
    """Texts as ids: ``ids[i]`` (n,) of text i, with their ``labels`` (N,)."""

    def __init__(self, ids: Sequence[Ids], labels: Integers | Numbers) -> None:
        self.ids, self.labels = ids, labels
        self.lengths = np.array([len(row) for row in ids], dtype=np.int64)

    def by_length(self, lines: Integers) -> Integers:
        """Lines (B,) in the order of their texts' lengths, shortest first, and as given where these are equal."""
        return lines[order_by_length(self.lengths[lines])]

    def batch(self, lines: Integers) -> TextBatch:
        """The texts of these lines (B,) by length."""
        lines = self.by_length(lines)
        return TextBatch(*pad([self.ids[line] for line in lines.tolist()]), self.labels[lines])


class LabelObjective(TextObjective[TextBatch]):
    """Base of the two objectives on labelled texts; what differs is the loss and the metrics."""

    METRICS: ClassVar[tuple[Metric, ...]]
    data: Labelled

    def __init__(self, setup: Setup, data: Labelled, model: ClassifierConfig) -> None:
        super().__init__(setup, data)
        self.model_config: ClassifierConfig = model

    @property
    def loss_metric(self) -> Metric:
        return self.METRICS[0]

    @abstractmethod
    def labels(self, examples: Sequence[Example]) -> Integers | Numbers:
        """Those of the examples, (N,)."""

    @abstractmethod
    def summed_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of a model's outputs for labels (N,), summed."""

    @abstractmethod
    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """The mean loss and the other ``METRICS``, by name."""

    def training_texts(self) -> Iterable[bytes]:
        return (example.text for example in self.data.train)

    def read_texts(self, max_len: int) -> None:
        self._max_len = max_len
        self._train = self._encoded(self.data.train, "training")
        self._valid = self._encoded(self.data.valid if self.setup.eval_samples else [], "validation")
        self._test = self._encoded(self.data.test, "test")
        self._bytes_per_id = sum(map(len, self.training_texts())) / max(int(self._train.lengths.sum()), 1)

    def _encoded(self, examples: Sequence[Example], part: str) -> Texts:
        """The texts of a part as ids. Raises ``ValueError`` for an empty text."""
        if empty := next((example for example in examples if not example.text), None):
            raise ValueError(f"{empty.where}: a text of the {part} part is empty, so there is nothing to classify: leave it out")
        key = "model.backbone.max_len"
        ids = [encode_text(example.text, self.tokenizer, self._max_len, self.window, key, example.where) for example in examples]
        return Texts(ids, self.labels(examples))

    def largest_batch(self, count: int) -> tuple[int, int]:
        return count, int(self._train.lengths.max())

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.METRICS) if self._valid.ids else ()

    def rows(self, lines: Integers) -> TextBatch:
        return self._train.batch(lines)

    def loss(self, model: ModelRunner, batch: TextBatch) -> Tensor:
        return self.summed_loss(_outputs(model, batch), model.tensor(batch.labels))

    def num_targets(self, batch: TextBatch) -> int:
        return len(batch.ids)

    def num_bytes(self, batch: TextBatch) -> int:
        if self.tokenizer is not None and not self.tokenizer.reversible:  # by the mean of the training part
            return round(int(batch.lengths.sum()) * self._bytes_per_id)
        return count_bytes(batch.ids, batch.lengths, (0, batch.ids.shape[1]), self.tokenizer)

    def evaluate(self, model: ModelRunner, batch_size: int) -> dict[str, float]:
        return self._evaluate(model, self._valid, batch_size)

    def test(self, model: Model, options: TestOptions) -> TestResult:
        examples = self.data.test
        if not examples:
            raise RunError("the test part has no texts: name tables for it in data.test, or raise its fraction")
        metrics = self._evaluate(_runner(model), self._test, options.batch_size)
        return TestResult({"basic": metrics.pop(self.loss_metric.name)}, sum(len(example.text) for example in examples), metrics)

    def sections(self, model: Model) -> list[Section]:
        """What the model makes of the texts of the test part, or of the validation part where there is no test part."""
        part, texts = ("test", self.data.test) if self.data.test else ("validation", self.data.valid)
        if not texts:
            return []
        encoded = self._test if part == "test" else self._encoded(texts, part)
        outputs, lines = self._outputs(_runner(model), encoded, self.setup.batch_size)
        return self.shown(part, [texts[line] for line in lines.tolist()], outputs, torch.from_numpy(encoded.labels[lines]))

    @abstractmethod
    def shown(self, part: str, examples: Sequence[Example], outputs: Tensor, labels: Tensor) -> list[Section]:
        """The sections on the ``examples`` (N) of a part, of which the model gave ``outputs``, (N, C) or (N,), for ``labels`` (N,)."""

    def _evaluate(self, model: ModelRunner, texts: Texts, batch_size: int) -> dict[str, float]:
        outputs, lines = self._outputs(model, texts, batch_size)
        return self.metrics(outputs, torch.from_numpy(texts.labels[lines]))

    def _outputs(self, model: ModelRunner, texts: Texts, batch_size: int) -> tuple[Tensor, Integers]:
        """What the model gives for all texts, (N, C) or (N,), and the line (N,) of each."""
        lines = texts.by_length(np.arange(len(texts.ids)))
        batches = [texts.batch(lines[first : first + batch_size]) for first in range(0, len(lines), batch_size)]
        return torch.cat([_outputs(model, batch) for batch in batches]).cpu(), lines


class Classification(LabelObjective):
    """Classes, measured by the mean cross entropy of a text in nats, accuracy, F1 and Matthews' correlation."""

    METRICS = CLASS_METRICS

    def labels(self, examples: Sequence[Example]) -> Integers:
        number = {label: number for number, label in enumerate(self.model_config.classes)}
        return np.array([number[str(example.label)] for example in examples], dtype=np.int64)

    def summed_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="sum")

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        others = classification_metrics(labels, outputs.argmax(1), outputs.shape[1])
        return {CROSS_ENTROPY.name: F.cross_entropy(outputs, labels).item(), **others}

    def baseline(self, options: TestOptions) -> Baseline:
        """The class that is most frequent in training, for every text."""
        label = Counter(example.label for example in self.data.train).most_common(1)[0][0]
        share = sum(example.label == label for example in self.data.test) / len(self.data.test)
        return Baseline(f"always {shortened(str(label), _LABEL)}", "accuracy", share)

    def shown(self, part: str, examples: Sequence[Example], outputs: Tensor, labels: Tensor) -> list[Section]:
        """Which classes are taken for which, and texts with the model's answers: the worst mistakes, then some that are right."""
        classes, predicted = self.model_config.classes, outputs.argmax(1)
        confusion = confusion_table(classes, labels.tolist(), predicted.tolist(), part)
        probabilities = outputs.softmax(1)
        wrong = (predicted != labels).nonzero().flatten()
        wrong = wrong[probabilities[wrong, labels[wrong]].argsort(stable=True)][:_WRONG]
        right = (predicted == labels).nonzero().flatten()[: _RIGHT + _WRONG - len(wrong)]
        rows = [
            [_excerpt(examples[row]), classes[labels[row]], f"{classes[predicted[row]]} {probabilities[row, predicted[row]]:.0%}"]
            for row in [*wrong.tolist(), *right.tolist()]
        ]
        note = f"Of the {part} part: the mistakes with the lowest probability of the label first, then texts that are right."
        return [confusion, Table("Examples", ["text", "label", "prediction"], rows, note, wrap=True)]


class Regression(LabelObjective):
    """Values, measured by the mean squared error in units of their variance in training, Pearson's and Spearman's correlation."""

    METRICS = VALUE_METRICS

    def labels(self, examples: Sequence[Example]) -> Numbers:
        return np.array([float(str(example.label)) for example in examples], dtype=np.float64)

    def summed_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return ((outputs - labels) / self.model_config.target_std).square().sum().to(outputs.dtype)

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        return {SQUARED_ERROR.name: self.summed_loss(outputs, labels).item() / len(labels), **regression_metrics(labels, outputs)}

    def shown(self, part: str, examples: Sequence[Example], outputs: Tensor, labels: Tensor) -> list[Section]:
        """The texts with the largest errors, and with the smallest."""
        order = (outputs - labels).abs().argsort(descending=True, stable=True).tolist()
        chosen = order[: _WRONG + _RIGHT] if len(order) <= _WRONG + _RIGHT else order[:_WRONG] + order[-_RIGHT:]
        rows = [[_excerpt(examples[row]), f"{labels[row]:.3g}", f"{outputs[row]:.3g}"] for row in chosen]
        note = f"Of the {part} part: the largest errors first, then the smallest."
        return [Table("Examples", ["text", "label", "prediction"], rows, note, wrap=True)]


def confusion_table(classes: Sequence[str], labels: Sequence[int], predicted: Sequence[int], part: str) -> Table:
    """How often texts of a class, one a row, get each prediction, one a column; of many classes, the most frequent mistakes."""
    counts = Counter(zip(labels, predicted, strict=True))
    note = f"The {len(labels):,} texts of the {part} part."
    if len(classes) <= MOST_CLASSES:
        numbers = range(len(classes))
        rows = [[classes[label], *(f"{counts[label, other]:,}" for other in numbers)] for label in numbers]
        return Table("Confusion matrix", ["label", *classes], rows, f"{note} A row is a label, a column a prediction.")
    mistakes = [(pair, number) for pair, number in counts.most_common() if pair[0] != pair[1]][:MOST_CLASSES]
    rows = [[classes[label], classes[other], f"{number:,}"] for (label, other), number in mistakes]
    return Table("Most frequent mistakes", ["label", "prediction", "texts"], rows, note)


def _excerpt(example: Example) -> str:
    text = " ".join(example.text[: 4 * _EXCERPT].decode("utf-8", "replace").split())
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"


def _is_regression(model: BaseModelConfig) -> bool:
    return isinstance(model, ClassifierConfig) and model.problem_type == "regression"


def _mean_and_std(texts: Labelled) -> dict[str, float]:
    """The mean and the standard deviation of the values of the training part, as fields of the model's config."""
    values = np.array([float(str(example.label)) for example in texts.train])
    if (std := float(values.std())) == 0:
        raise ValueError(f"all texts of the training part have the value {values[0]:g}: give labels that differ")
    return {"target_mean": float(values.mean()), "target_std": std}


def _runner(model: Model) -> ModelRunner:
    return ModelRunner.of(model)


def _outputs(model: ModelRunner, batch: TextBatch) -> Tensor:
    """Logits (B, C), or values (B,)."""
    return model.run({"ids": model.tensor(batch.ids[:, : batch.lengths.max()]), "lengths": model.tensor(batch.lengths)})
