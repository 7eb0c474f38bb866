"""Learning the labels of texts: cross entropy over classes, and on held-out texts accuracy, F1 and Matthews' correlation.

Texts of a batch are padded on the right to the longest, which changes no result. Their order is a keyed permutation of their numbers in
each epoch, as with windows. B batch, T ids, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data import Batch, Codec, Example, Ids, Labelled, count_bytes
from subquad.data.order import Integers, Order
from subquad.models.classifier import Classifier
from subquad.ops.agreement import FIGURES, confusion, figures
from subquad.training.config import DataConfig, TrainConfig
from subquad.training.objectives import Objective, Place, settled_tokenizer


class Texts:
    """Examples as ids: ``ids[i]`` (n,) of text i, ``labels`` (N,) the places of their labels among the classes.

    A text of more than ``window`` ids keeps its first ones. Raises ``ValueError`` for a text of more than ``max_len`` without a window.
    """

    def __init__(
        self, examples: Sequence[Example], classes: Sequence[str], codec: Codec | None, max_len: int, window: int | None = None
    ) -> None:
        place = {label: number for number, label in enumerate(classes)}
        self.labels: Integers = np.array([place[str(example.label)] for example in examples], dtype=np.int64)
        self.ids: list[Ids] = []
        for text, _ in examples:
            ids = np.frombuffer(text, dtype=np.uint8) if codec is None else codec.encode(text)
            if window is None and len(ids) > max_len:
                raise ValueError(
                    f"a text has {len(ids)} ids and the context is {max_len}: raise model.backbone.max_len, "
                    f"or cut texts with data.window={max_len}"
                )
            self.ids.append(ids[:window])

    def batch(self, places: Integers) -> Batch:
        """The texts at these places (B,), padded with 0 to the longest."""
        rows = [self.ids[place] for place in places.tolist()]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids: Ids = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int32)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return Batch(ids, lengths, labels=self.labels[places])


class Classification(Objective):
    """The labels of texts, measured by the mean cross entropy of a text in nats."""

    measure, unit = "cross_entropy", "nats"

    def __init__(self, model: Classifier, data: Labelled) -> None:
        self.model: Classifier = model
        self.data = data

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def window(self, data: DataConfig) -> int | None:
        if data.window is not None and data.window > self.model.max_len:
            raise ValueError(f"a window of {data.window} ids exceeds the context of {self.model.max_len}: lower data.window")
        return data.window

    def set_up(self, config: TrainConfig, kept: Path | None = None) -> None:
        asked, window = config.data.tokenizer, self.window(config.data)
        if isinstance(asked, int):
            raise ValueError(f"labelled texts train no tokenizer, got data.tokenizer={asked}: name a tokenizer.json, or dna")
        self.tokenizer = settled_tokenizer(self.model, self.model.vocab, asked, kept, [])
        classes, max_len = self.model.config.classes, self.model.max_len
        self._train = Texts(self.data.train, classes, self.tokenizer, max_len, window)
        held_out = self.data.valid if config.eval.windows else []
        self._valid = Texts(held_out, classes, self.tokenizer, max_len, window)
        self._order = Order(len(self.data.train), config.seed)

    def record(self) -> dict[str, Any]:
        return self.data.record()

    def batch(self, first: int, count: int) -> Batch:
        return self._train.batch(self._order.at(np.arange(first, first + count))[1])

    @property
    def figures(self) -> tuple[str, ...]:
        return (self.measure, *FIGURES) if self._valid.ids else ()

    def nats(self, batch: Batch, place: Place) -> Tensor:
        return F.cross_entropy(self._logits(batch, place), self._labels(batch, place), reduction="sum")

    def count(self, batch: Batch) -> int:
        return len(batch.ids)

    def bytes(self, batch: Batch) -> int:
        return count_bytes(batch.ids, batch.lengths, (0, batch.ids.shape[1]), self.tokenizer)

    def loss(self, nats: float, batch: Batch) -> float:
        return nats / len(batch.ids)

    def validate(self, size: int, place: Place) -> dict[str, float] | None:
        number = len(self._valid.ids)
        if not number:
            return None
        logits = [self._logits(self._valid.batch(np.arange(first, min(first + size, number))), place) for first in range(0, number, size)]
        return measured(torch.cat(logits).cpu(), torch.from_numpy(self._valid.labels))

    def _logits(self, batch: Batch, place: Place) -> Tensor:
        ids = torch.from_numpy(batch.ids).to(place.device).long()
        with place.autocast():
            logits: Tensor = self.model(ids, batch.lengths.tolist())
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @staticmethod
    def _labels(batch: Batch, place: Place) -> Tensor:
        assert batch.labels is not None
        return torch.from_numpy(batch.labels).to(place.device)


def measured(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The mean cross entropy in nats, accuracy, F1 and Matthews' correlation of logits (N, C) for classes (N,)."""
    counts = confusion(labels, logits.argmax(1), logits.shape[1])
    return {Classification.measure: F.cross_entropy(logits, labels).item(), **figures(counts)}
