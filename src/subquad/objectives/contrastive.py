"""Contrastive learning of embeddings for retrieval: a query's vector is to be nearer to its passage's than to those of other passages.

The other passages are those of the batch and, where the table names one, a negative of each pair. A passage that is in a batch twice is
read once, and one that the table, in whatever part, gives to the same query is not a negative. Of the cosines s (B, P) of B queries and P
passages, with p(i) the passage of query i:

    InfoNCE (arXiv 1807.03748), temperature t:            loss_i = -log exp(s_ip(i) / t) / sum_j exp(s_ij / t),   j over p(i) and negatives
    orthogonal (M2-BERT's retrieval, arXiv 2402.07440):   loss_i = mean_j (s_ij - y_ij)^2,   y_ij = 1 where j is relevant to i, else 0

The second makes relevant pairs parallel and all others orthogonal, whatever else is in the batch. Cost: B P.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from subquad.data.batching import Mask, length_mask, pad
from subquad.data.pairs import Pair, PairColumns, Pairs, read_pairs
from subquad.data.shuffle import Integers
from subquad.data.tokenizer import count_bytes
from subquad.data.windows import Ids
from subquad.errors import RunError
from subquad.models.base import BaseModelConfig, Model
from subquad.models.encoder import EncoderConfig
from subquad.objectives.base import Baseline, Metric, ModelRunner, ObjectiveConfig, Setup, TestOptions, TestResult
from subquad.objectives.texts import TextObjective, encode_text

LOSS = Metric("pair_loss", "loss per query")
ACCURACY = Metric("in_batch_accuracy", "in-batch accuracy", higher_is_better=True)


class ContrastiveConfig(ObjectiveConfig):
    """``loss`` with its ``temperature``; ``columns`` says where a table has queries and passages, see ``data/pairs.py``."""

    METRICS: ClassVar[tuple[Metric, ...]] = (LOSS, ACCURACY)
    READS: ClassVar[frozenset[str]] = frozenset({"valid", "test"})
    MODELS: ClassVar[str] = "an encoder with model.head=none"

    kind: Literal["contrastive"] = "contrastive"
    loss: Literal["infonce", "orthogonal"] = "infonce"
    temperature: float = Field(default=0.05, gt=0)
    columns: PairColumns = PairColumns()

    @classmethod
    def trains(cls, model: BaseModelConfig) -> bool:
        return isinstance(model, EncoderConfig) and model.head == "none"

    def build(self, setup: Setup) -> Contrastive:
        if setup.batch_size < 2 and self.columns.negative is None:
            raise ValueError("a batch of one pair has no negatives: raise batch, or name a column objective.columns.negative")
        data = setup.data
        seed = setup.seed if data.split_seed is None else data.split_seed
        pairs = read_pairs(data.paths, data.valid, data.test, self.columns, data.fractions, seed)
        return Contrastive(self, setup, pairs)


@dataclass(frozen=True)
class PairBatch:
    """Queries as ids (B, T) and passages as ids (P, n), each with the lengths of its rows; ``target`` (B,) is the row of each query's
    passage, and ``relevant`` (B, P) says which passages belong to which query. Some of the rows are some of the queries."""

    queries: Ids
    query_lengths: Integers
    passages: Ids
    passage_lengths: Integers
    target: Integers
    relevant: Mask

    def rows(self, first: int, stop: int) -> PairBatch:
        """Some of its queries, with all passages."""
        return replace(
            self,
            queries=self.queries[first:stop],
            query_lengths=self.query_lengths[first:stop],
            target=self.target[first:stop],
            relevant=self.relevant[first:stop],
        )


class EncodedPairs:
    """Pairs as batches; ``ids`` has those of every text, and ``relevant`` all pairs that belong together."""

    def __init__(self, pairs: Sequence[Pair], ids: Mapping[bytes, Ids], relevant: Collection[tuple[bytes, bytes]]) -> None:
        self.pairs, self.ids, self._relevant = pairs, ids, relevant

    def batch(self, lines: Integers) -> PairBatch:
        """The pairs of these lines (B,), with P passages, each once."""
        pairs = [self.pairs[line] for line in lines.tolist()]
        passages = list(dict.fromkeys(text for pair in pairs for text in pair.texts[1:]))
        row = {text: number for number, text in enumerate(passages)}
        target = np.array([row[pair.passage] for pair in pairs], dtype=np.int64)
        relevant = np.array([[(pair.query, text) in self._relevant for text in passages] for pair in pairs], dtype=bool)
        queries = pad([self.ids[pair.query] for pair in pairs])
        return PairBatch(*queries, *pad([self.ids[text] for text in passages]), target, relevant)


class Contrastive(TextObjective[PairBatch]):
    """See the module's docstring. Accuracy, in batches of the same size as in training, is the share of queries whose own passage is
    nearer than all negatives."""

    data: Pairs

    def __init__(self, config: ContrastiveConfig, setup: Setup, data: Pairs) -> None:
        super().__init__(setup, data)
        self.config = config

    @property
    def loss_metric(self) -> Metric:
        return LOSS

    def training_texts(self) -> Iterable[bytes]:
        return (text for pair in self.data.train for text in pair.texts)

    def read_texts(self, max_len: int) -> None:
        train, valid = self.data.train, self.data.valid if self.setup.eval_samples else []
        self._max_len = max_len
        self._relevant = {(pair.query, pair.passage) for part in (train, self.data.valid, self.data.test) for pair in part}
        self._train, self._valid, self._test = self._encoded(train), self._encoded(valid), self._encoded(self.data.test)
        ids = self._train.ids
        self._bytes_per_id = sum(map(len, ids)) / max(sum(map(len, ids.values())), 1)

    def _encoded(self, pairs: Sequence[Pair]) -> EncodedPairs:
        places = {text: pair.where for pair in reversed(pairs) for text in pair.texts}
        ids = {
            text: encode_text(text, self.tokenizer, self._max_len, self.window, "model.max_len", where) for text, where in places.items()
        }
        return EncodedPairs(pairs, ids, self._relevant)

    def largest_batch(self, count: int) -> tuple[int, int]:
        """Of queries and passages together."""
        passages = max(len(pair.texts) for pair in self.data.train) - 1
        return count * (1 + passages), max(map(len, self._train.ids.values()))

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (LOSS.name, ACCURACY.name) if self._valid.pairs else ()

    def rows(self, lines: Integers) -> PairBatch:
        return self._train.batch(lines)

    def loss(self, model: ModelRunner, batch: PairBatch) -> Tensor:
        return self._losses(*self.similarities(model, batch)).sum()

    def num_targets(self, batch: PairBatch) -> int:
        return len(batch.queries)

    def num_bytes(self, batch: PairBatch) -> int:
        """Of a tokenizer whose ids do not give the text back, by the mean of the training texts."""
        texts = [(batch.queries, batch.query_lengths), (batch.passages, batch.passage_lengths)]
        if self.tokenizer is not None and not self.tokenizer.reversible:
            return round(sum(int(lengths.sum()) for _, lengths in texts) * self._bytes_per_id)
        return sum(count_bytes(ids, lengths, (0, ids.shape[1]), self.tokenizer) for ids, lengths in texts)

    def evaluate(self, model: ModelRunner, batch_size: int) -> dict[str, float]:
        """Whole batches, whatever ``batch_size``: the metrics depend on how many passages there are to choose from."""
        return self._evaluate(model, self._valid)

    def test(self, model: Model, options: TestOptions) -> TestResult:
        pairs = self.data.test
        if not pairs:
            raise RunError("the test part has no pairs: name tables for it in data.test, or raise its fraction")
        metrics = self._evaluate(ModelRunner.of(model), self._test)
        size = sum(len(text) for pair in pairs for text in pair.texts)
        return TestResult({"basic": metrics.pop(LOSS.name)}, size, metrics)

    def baseline(self, options: TestOptions) -> Baseline:
        """Any passage of the batch."""
        count, size = len(self._test.pairs), self.setup.batch_size
        lines = [np.arange(first, min(first + size, count)) for first in range(0, count, size)]
        expected = sum(len(part) / len(self._test.batch(part).passages) for part in lines) / count
        return Baseline("a passage of the batch at random", ACCURACY.name, expected)

    def _evaluate(self, model: ModelRunner, pairs: EncodedPairs) -> dict[str, float]:
        count, size = len(pairs.pairs), self.setup.batch_size
        loss, correct = 0.0, 0
        for first in range(0, count, size):
            batch = pairs.batch(np.arange(first, min(first + size, count)))
            similarity, target, relevant = self.similarities(model, batch)
            loss += self._losses(similarity, target, relevant).sum().item()
            correct += int((negatives_only(similarity, target, relevant).argmax(1) == target).sum())
        return {LOSS.name: loss / count, ACCURACY.name: correct / count}

    def similarities(self, model: ModelRunner, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines (B, P) of a batch's queries and passages in float32 or better, with ``target`` (B,) and ``relevant`` (B, P)."""
        queries = _embeddings(model, batch.queries, batch.query_lengths)  # (B, D)
        passages = _embeddings(model, batch.passages, batch.passage_lengths)  # (P, D)
        return queries @ passages.mT, model.tensor(batch.target), model.tensor(batch.relevant)

    def _losses(self, similarity: Tensor, target: Tensor, relevant: Tensor) -> Tensor:
        if self.config.loss == "orthogonal":
            return orthogonal(similarity, relevant)
        return infonce(similarity, target, relevant, self.config.temperature)


def infonce(similarity: Tensor, target: Tensor, relevant: Tensor, temperature: float) -> Tensor:
    """(B, P), target (B,), relevant (B, P) -> the loss of each query, (B,)."""
    return F.cross_entropy(negatives_only(similarity, target, relevant) / temperature, target, reduction="none")


def orthogonal(similarity: Tensor, relevant: Tensor) -> Tensor:
    """(B, P), relevant (B, P) -> the loss of each query, (B,)."""
    return (similarity - relevant.to(similarity)).square().mean(1)


def negatives_only(similarity: Tensor, target: Tensor, relevant: Tensor) -> Tensor:
    """The similarities (B, P) with minus infinity at relevant passages other than the target."""
    others = relevant.scatter(1, target.unsqueeze(1), False)
    return similarity.masked_fill(others, -float("inf"))


def _embeddings(model: ModelRunner, ids: Ids, lengths: Integers) -> Tensor:
    """The embeddings of texts, of length 1, (N, D)."""
    mask = length_mask(lengths, ids.shape[1])
    vectors = model.run({"ids": ids, "mask": None if mask.all() else mask, "output": "embedding"})
    return F.normalize(vectors, dim=-1)
