"""Learning the labels of texts: classes by cross entropy, numbers by squared error, with GLUE's figures on held-out texts.

Texts of a batch are padded on the right to the longest, which changes no result. Their order is a keyed permutation of their numbers in
each epoch, as with windows; a batch has its shortest first, so that the parts it is accumulated in are of nearly one length, and short
where that is. B batch, T ids, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data.batches import Batch, Numbers
from subquad.data.labelled import Example, Labelled
from subquad.data.shuffle import Integers
from subquad.data.subwords import Reader, Subwords
from subquad.data.tokenizer import count_bytes
from subquad.metrics import CLASSIFICATION, REGRESSION, classification_metrics, regression_metrics, require
from subquad.models.classifier import Classifier
from subquad.training.config import TrainConfig
from subquad.training.objectives import Place
from subquad.training.texts import TableObjective, padded, whole_ids


class Texts:
    """Texts as ids: ``ids[i]`` (n,) of text i, and ``labels`` (N,), classes by number or numbers.

    A text of more than ``window`` ids keeps its first ones. Raises ``ValueError`` for a text of more than ``max_len`` without a window.
    """

    def __init__(
        self,
        texts: Sequence[bytes],
        labels: Integers | Numbers,
        reader: Reader | None,
        max_len: int,
        window: int | None = None,
    ) -> None:
        self.labels, self.bytes = labels, sum(map(len, texts))
        self.ids = [whole_ids(text, reader, max_len, window, "model.backbone.max_len") for text in texts]
        self.lengths = np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def by_length(self, places: Integers) -> Integers:
        """The places (B,) in the order of their texts' lengths, shortest first, and as given where these are equal."""
        return places[np.argsort(self.lengths[places], kind="stable")]

    def batch(self, places: Integers) -> Batch:
        """The texts at these places (B,) by length, padded with 0 to the longest."""
        places = self.by_length(places)
        return Batch(*padded([self.ids[place] for place in places.tolist()]), labels=self.labels[places])


class Labelling(TableObjective):
    """Base of the objectives on labelled texts; what differs is the loss and the figures."""

    names: tuple[str, ...]
    data: Labelled

    def __init__(self, model: Classifier, data: Labelled) -> None:
        require()
        self.model: Classifier = model
        self.data = data

    @abstractmethod
    def labels(self, examples: Sequence[Example]) -> Integers | Numbers:
        """Those of the examples as numbers, (N,)."""

    @abstractmethod
    def summed(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of a model's outputs for labels (N,), summed."""

    @abstractmethod
    def measured(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """The mean loss and ``names``, by name."""

    def _texts(self) -> Iterable[bytes]:
        return (example.text for example in self.data.train)

    def _read(self, config: TrainConfig, window: int | None) -> None:
        held_out = self.data.valid if config.eval.windows else []
        self._samples, self._valid = (
            Texts([one.text for one in part], self.labels(part), self.tokenizer, self.model.max_len, window)
            for part in (self.data.train, held_out)
        )
        self._bytes_an_id = self._samples.bytes / max(sum(map(len, self._samples.ids)), 1)

    @property
    def figures(self) -> tuple[str, ...]:
        return (self.measure, *self.names) if self._valid.ids else ()

    def nats(self, batch: Batch, place: Place) -> Tensor:
        assert batch.labels is not None
        return self.summed(self._outputs(batch, place), torch.from_numpy(batch.labels).to(place.device))

    def bytes(self, batch: Batch) -> int:
        if isinstance(self.tokenizer, Subwords):  # which does not say what bytes an id stands for: the mean of the training part
            return round(int(batch.lengths.sum()) * self._bytes_an_id)
        return count_bytes(batch.ids, batch.lengths, (0, batch.ids.shape[1]), self.tokenizer)

    def validate(self, size: int, place: Place) -> dict[str, float] | None:
        number = len(self._valid.ids)
        if not number:
            return None
        places = self._valid.by_length(np.arange(number))
        outputs = [self._outputs(self._valid.batch(places[first : first + size]), place) for first in range(0, number, size)]
        return self.measured(torch.cat(outputs).cpu(), torch.from_numpy(self._valid.labels[places]))

    def _outputs(self, batch: Batch, place: Place) -> Tensor:
        ids = torch.from_numpy(batch.ids[:, : batch.lengths.max()]).to(place.device).long()
        with place.autocast():
            outputs: Tensor = self.model(ids, batch.lengths.tolist())
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


class Classification(Labelling):
    """Classes, measured by the mean cross entropy of a text in nats, accuracy, F1 and Matthews' correlation."""

    measure, unit, names = "cross_entropy", "nats", CLASSIFICATION

    def labels(self, examples: Sequence[Example]) -> Integers:
        place = {label: number for number, label in enumerate(self.model.config.classes)}
        return np.array([place[str(example.label)] for example in examples], dtype=np.int64)

    def summed(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="sum")

    def measured(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        metrics = classification_metrics(labels.numpy(), outputs.argmax(1).numpy(), outputs.shape[1])
        return {self.measure: F.cross_entropy(outputs, labels).item(), **metrics}


class Regression(Labelling):
    """Numbers, measured by the mean squared error in units of their variance in training, Pearson's and Spearman's correlation."""

    measure, unit, names = "squared_error", "of the variance", REGRESSION

    def labels(self, examples: Sequence[Example]) -> Numbers:
        return np.array([float(str(example.label)) for example in examples], dtype=np.float64)

    def summed(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return ((outputs - labels) / self.model.config.target_std).square().sum().to(outputs.dtype)

    def measured(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        return {self.measure: self.summed(outputs, labels).item() / len(labels), **regression_metrics(labels.numpy(), outputs.numpy())}
