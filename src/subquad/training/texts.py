"""Whole texts as rows of ids: read, measured against the context, padded to one length; and what objectives on tables of them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from subquad.data.batches import Batch
from subquad.data.labelled import Labelled
from subquad.data.pairs import Pairs
from subquad.data.shuffle import Integers, Order
from subquad.data.subwords import Reader, text_ids
from subquad.data.windows import Ids, whole_span
from subquad.training.config import DataConfig, TrainConfig
from subquad.training.objectives import Objective, settled_tokenizer


class Samples(Protocol):
    """Samples by place."""

    def batch(self, places: Integers) -> Batch: ...


class TableObjective(Objective):
    """Base of the objectives on tables of whole texts, whose samples are lines."""

    data: Labelled | Pairs
    _samples: Samples

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def record(self) -> dict[str, Any]:
        return self.data.record()

    def window(self, data: DataConfig) -> int | None:
        if data.window is not None and data.window > self.model.max_len:
            raise ValueError(f"a window of {data.window} ids exceeds the context of {self.model.max_len}: lower data.window")
        return data.window

    def set_up(self, config: TrainConfig, kept: Path | None = None) -> None:
        asked = config.data.tokenizer
        text = b"\n".join(self._texts()) if isinstance(asked, int) and kept is None else b""
        self.tokenizer = settled_tokenizer(self.model, self.model.vocab, asked, kept, [whole_span(text, "the training part")])
        self._read(config, self.window(config.data))
        self._order = Order(len(self.data.train), config.seed)

    @abstractmethod
    def _texts(self) -> Iterable[bytes]:
        """All texts of the training part."""

    @abstractmethod
    def _read(self, config: TrainConfig, window: int | None) -> None:
        """Sets ``_samples``, those of the training part, and what validates, with ``tokenizer``."""

    def batch(self, first: int, count: int) -> Batch:
        return self._samples.batch(self._order.at(np.arange(first, first + count))[1])

    def count(self, batch: Batch) -> int:
        return len(batch.ids)

    def loss(self, nats: float, batch: Batch) -> float:
        return nats / len(batch.ids)


def whole_ids(text: bytes, reader: Reader | None, max_len: int, window: int | None, key: str) -> Ids:
    """The ids of a text, (n,), of one of more than ``window`` ids the first ones.

    Raises ``ValueError`` for a text of more than ``max_len`` ids without a window; ``key`` is the setting that makes the context longer.
    """
    ids = text_ids(text, reader, window)
    if len(ids) > max_len:
        raise ValueError(f"a text has {len(ids)} ids and the context is {max_len}: raise {key}, or cut texts with data.window={max_len}")
    return ids


def padded(rows: Sequence[Ids]) -> tuple[Ids, Integers]:
    """The rows as one array (B, T), filled with 0 on the right up to the longest, and their lengths (B,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids: Ids = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int32)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    return ids, lengths
