"""What a run learns, as a value that the loop is handed: batches by number, a loss in nats, figures on held-out data.

``Prediction`` learns the next byte or token of a corpus; in their own files ``MaskedPrediction`` learns what is hidden of it,
``Classification`` and ``Regression`` the labels of texts, and ``Contrast`` which passage answers a query.
B batch, T ids, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data.batches import Batch, Batches
from subquad.data.corpus import Corpus
from subquad.data.subwords import Reader, Subwords, open_reader
from subquad.data.tokenizer import Codec, open_tokenizer
from subquad.data.windows import Span
from subquad.metrics import score_answers
from subquad.models.base import CausalModel, Model
from subquad.training.config import DataConfig, TrainConfig

_IGNORED = -100


@dataclass(frozen=True)
class Place:
    """Where and in which precision a model runs."""

    device: torch.device
    bfloat16: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """PyTorch's mixed precision, or nothing."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


class Objective(ABC):
    """A model and what it learns. ``measure`` is the loss's name in log.jsonl, ``unit`` what is shown behind it; lower is better."""

    measure: ClassVar[str]
    unit: ClassVar[str]
    model: Model
    tokenizer: Reader | None = None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What a resumed run's data must have in common with its beginning."""

    @abstractmethod
    def window(self, data: DataConfig) -> int | None:
        """The most ids of a sample, None for all it has. Raises ``ValueError`` for more than the model's context."""

    @abstractmethod
    def set_up(self, config: TrainConfig, kept: Path | None = None) -> None:
        """Splits and reads the data, with the tokenizer that a resumed run has ``kept``. Raises ``ValueError`` for what cannot be."""

    @property
    @abstractmethod
    def figures(self) -> tuple[str, ...]:
        """The names of what ``validate`` gives, once the data are set up; none where nothing is held out."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What data.json says of the data and their split."""

    @abstractmethod
    def batch(self, first: int, count: int) -> Batch:
        """Samples first..first+count-1 of an endless order."""

    def drawn(self, batch: Batch) -> Batch:
        """The batch as one step learns it; a model may draw the positions, by PyTorch's random numbers."""
        return batch

    @abstractmethod
    def nats(self, batch: Batch, place: Place) -> Tensor:
        """The summed cross entropy of a batch."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Over how many the sum is; the gradient is that of the mean."""

    @abstractmethod
    def bytes(self, batch: Batch) -> int:
        """How many bytes of data were learned from."""

    @abstractmethod
    def loss(self, nats: float, batch: Batch) -> float:
        """What is logged of a sum over a batch, in ``unit``."""

    @abstractmethod
    def validate(self, size: int, place: Place) -> dict[str, float] | None:
        """Figures of the held-out data, read ``size`` samples at a time, ``measure`` among them; None without such data."""


class Prediction(Objective):
    """The next id of a corpus's windows, at all positions or at those that the model draws; measured in bits per byte.

    Where the data say what is learned and what is an answer, losses are of what is learned, and validation is of the answers: bits per
    answer and, as ``accuracy``, how many are right. ``split`` and ``batches`` are there after ``set_up``.
    """

    measure, unit = "bits_per_byte", "bits/byte"
    tokenizer: Codec | None

    def __init__(self, model: CausalModel, corpus: Corpus) -> None:
        self.model: CausalModel = model
        self.corpus = corpus

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    def window(self, data: DataConfig) -> int:
        max_len, task = self.model.config.max_len, self.corpus.task
        window = data.window or (data.image.size if data.image else task.size if task else max_len)
        if task and (window != task.size or data.pack or data.tokenizer is not None):
            raise ValueError(f"an example of a task is one window, of {task.size} bytes: leave out data.window, pack and tokenizer")
        if window > max_len:
            unit = "bytes" if data.tokenizer is None else "tokens"
            raise ValueError(f"a window of {window} {unit} exceeds the model's context of {max_len}: lower data.window or raise max_len")
        return window

    def set_up(self, config: TrainConfig, kept: Path | None = None) -> None:
        data, window = config.data, self.window(config.data)
        self.split = self.corpus.split(data.fractions, data.split, config.seed if data.split_seed is None else data.split_seed)
        tokenizer = settled_tokenizer(self.model, self.model.config.vocab, data.tokenizer, kept, self.split.train)
        assert not isinstance(tokenizer, Subwords)  # a causal model's ids give the text back
        self.tokenizer = tokenizer
        self.batches = Batches(self.split.train, window, config.seed, data.pack, data.shift, self.tokenizer)
        self._valid: Batch | None = None
        if self.split.valid and config.eval.windows:
            held_out = Batches(self.split.valid, window, config.seed, data.pack, False, self.tokenizer)
            self._valid = held_out.in_order(config.eval.windows)

    @property
    def figures(self) -> tuple[str, ...]:
        if self._valid is None:
            return ()
        return (self.measure,) if self._valid.answers is None else (self.measure, "accuracy")

    def record(self) -> dict[str, Any]:
        return self.corpus.record(self.split)

    def batch(self, first: int, count: int) -> Batch:
        return self.batches.batch(first, count)

    def drawn(self, batch: Batch) -> Batch:
        spans = self.model.training_spans(int(batch.lengths.max()))
        return replace(batch, span=spans[int(torch.randint(len(spans), (), device="cpu"))] if len(spans) > 1 else spans[0])

    def nats(self, batch: Batch, place: Place) -> Tensor:
        first, end = batch.span or batch.whole
        logits, ids = self._logits(batch, place)
        counted = None if batch.learned is None else torch.from_numpy(batch.learned[:, first:end]).to(place.device)
        return cross_entropy_sum(logits, ids, (batch.lengths.clip(first, end) - first).tolist(), counted)

    def count(self, batch: Batch) -> int:
        return max(batch.count(batch.learned, batch.span or batch.whole), 1)  # a span that is drawn may hold nothing to learn

    def bytes(self, batch: Batch) -> int:
        return batch.bytes(batch.span or batch.whole, self.tokenizer)

    def loss(self, nats: float, batch: Batch) -> float:
        return bits_per_byte(nats, self.bytes(batch) if batch.learned is None else self.count(batch))

    def validate(self, size: int, place: Place) -> dict[str, float] | None:
        valid = self._valid
        if valid is None:
            return None
        parts = [valid.rows(first, first + size) for first in range(0, len(valid.ids), size)]
        if valid.answers is None:
            return {self.measure: self.loss(sum(self.nats(part, place).item() for part in parts), valid)}
        judged = [self._judged(part, place) for part in parts]
        number = valid.count(valid.answers, valid.whole)
        return {
            self.measure: bits_per_byte(sum(nats for nats, _ in judged), number),
            "accuracy": sum(right for _, right in judged) / number,
        }

    def _judged(self, batch: Batch, place: Place) -> tuple[float, int]:
        """The cost of the answers in nats, and how many are right."""
        slack = self.corpus.task.slack if self.corpus.task else 0
        assert batch.answers is not None
        return score_answers(*self._logits(batch, place), torch.from_numpy(batch.answers).to(place.device), slack)

    def _logits(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        """Logits and ids at the positions of the batch's span, or at all of them."""
        ids = torch.from_numpy(batch.ids).to(place.device).long()
        first, end = batch.span or batch.whole
        with place.autocast():
            logits = self.model(ids, batch.span)
        return logits, ids[:, first:end]


def settled_tokenizer(model: Model, vocab: int, asked: str | int | None, kept: Path | None, spans: Sequence[Span]) -> Reader | None:
    """The run's own tokenizer, or the one asked for; the model takes it along, and must have been without or have the same."""
    opened = open_tokenizer if model.reversible else open_reader
    tokenizer = None if asked is None else opened(asked if kept is None else str(kept), spans)
    start = model.tokenizer
    if start is not None and (tokenizer is None or tokenizer.to_bytes() != start.to_bytes()):
        raise ValueError("the weights to start from go with another tokenizer: give that run's, as data.tokenizer=RUN/tokenizer.json")
    if tokenizer is not None and vocab < tokenizer.vocab:
        size = tokenizer.vocab
        raise ValueError(f"the tokenizer has {size} tokens and the model a vocabulary of {vocab}: set model.vocab={size}, or more")
    model.tokenizer = tokenizer
    return tokenizer


def cross_entropy_sum(logits: Tensor, ids: Tensor, lengths: Sequence[int], counted: Tensor | None = None) -> Tensor:
    """Nats of ids (B, T) under logits (B, T, V), summed over the first ``lengths[b]`` positions of each row, in float32 or better.

    Of those, only the ``counted`` ones, a mask (B, T), where there is one.
    """
    if min(lengths, default=ids.shape[1]) < ids.shape[1]:
        ends = torch.tensor(lengths, device=ids.device)[:, None]
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= ends, _IGNORED)
    if counted is not None:
        ids = ids.masked_fill(~counted, _IGNORED)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=_IGNORED, reduction="sum")


def bits_per_byte(nats: float, count: int) -> float:
    """Mean bits per byte of ``count`` bytes that cost ``nats`` together."""
    return nats / count / math.log(2)
