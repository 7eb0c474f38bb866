"""Learning vectors to search by: a query's is to be nearer to its passage's than to those of others (``ops/contrast.py``).

The others are the passages of the batch and, where the table names one, a negative of each pair. A passage that stands in a batch twice is
read once, and one that the table, in whatever part, gives to the same query is no other. B queries, P passages, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data.batches import Batch, Passages
from subquad.data.pairs import Pair, Pairs
from subquad.data.shuffle import Integers
from subquad.data.subwords import Subwords
from subquad.data.tokenizer import count_bytes
from subquad.data.windows import Ids
from subquad.models.encoder import Encoder
from subquad.ops.contrast import contenders, infonce, orthogonal
from subquad.training.config import TrainConfig
from subquad.training.objectives import Place
from subquad.training.texts import TableObjective, padded, whole_ids


class PairedTexts:
    """Pairs as batches; ``ids`` has those of every text, and ``known`` all pairs that belong together."""

    def __init__(self, pairs: Sequence[Pair], ids: Mapping[bytes, Ids], known: Collection[tuple[bytes, bytes]]) -> None:
        self.pairs, self._ids, self._known = pairs, ids, known

    def batch(self, places: Integers) -> Batch:
        """The pairs at these places (B,), with P passages, each once."""
        pairs = [self.pairs[place] for place in places.tolist()]
        texts = list(dict.fromkeys(text for pair in pairs for text in pair[1:] if text is not None))
        own = np.array([texts.index(pair.passage) for pair in pairs], dtype=np.int64)
        known = np.array([[(pair.query, text) in self._known for text in texts] for pair in pairs], dtype=bool)
        passages = Passages(*padded([self._ids[text] for text in texts]), own, known)
        return Batch(*padded([self._ids[pair.query] for pair in pairs]), passages=passages)


class Contrast(TableObjective):
    """Queries told their passages, measured by the mean loss of a query and, in batches of the same size as in training, by the share of
    queries whose own passage is nearer than all others.

    Raises ``ValueError`` for an encoder with a head, whose output is no vector of the text.
    """

    measure, unit = "pair_loss", "a query"
    data: Pairs

    def __init__(self, model: Encoder, data: Pairs) -> None:
        if model.config.head != "none":
            raise ValueError(f'pairs need an encoder that gives vectors, got head={model.config.head!r}: set model.head="none"')
        self.model: Encoder = model
        self.data = data

    def _texts(self) -> Iterable[bytes]:
        return (text for pair in self.data.train for text in pair if text is not None)

    def _read(self, config: TrainConfig, window: int | None) -> None:
        if config.batch < 2 and config.data.pairs.negative is None:
            raise ValueError("a batch of one pair has no passage to be told from: raise batch, or name a column data.pairs.negative")
        self._contrast, self._batch = config.contrast, config.batch
        train, valid = self.data.train, self.data.valid if config.eval.windows else []
        known = {(pair.query, pair.passage) for part in (train, self.data.valid, self.data.test) for pair in part}
        texts = dict.fromkeys(text for pair in (*train, *valid) for text in pair if text is not None)
        ids = {text: whole_ids(text, self.tokenizer, self.model.max_len, window, "model.max_len") for text in texts}
        self._bytes_an_id = sum(map(len, ids)) / max(sum(map(len, ids.values())), 1)
        self._samples, self._valid = (PairedTexts(part, ids, known) for part in (train, valid))

    @property
    def figures(self) -> tuple[str, ...]:
        return (self.measure, "in_batch_accuracy") if self._valid.pairs else ()

    def nats(self, batch: Batch, place: Place) -> Tensor:
        """The summed loss: for InfoNCE the cross entropy of the own passages, for the orthogonal loss the squared errors' means."""
        return self._loss(*self.similarities(batch, place))

    def bytes(self, batch: Batch) -> int:
        """Of a tokenizer whose ids do not give the text back, by the mean of all texts."""
        assert batch.passages is not None
        texts = [(batch.ids, batch.lengths), (batch.passages.ids, batch.passages.lengths)]
        if isinstance(self.tokenizer, Subwords):
            return round(sum(int(lengths.sum()) for _, lengths in texts) * self._bytes_an_id)
        return sum(count_bytes(ids, lengths, (0, ids.shape[1]), self.tokenizer) for ids, lengths in texts)

    def validate(self, size: int, place: Place) -> dict[str, float] | None:
        """Whole batches, whatever ``size``: the figures depend on how many passages there are to choose from."""
        number = len(self._valid.pairs)
        if not number:
            return None
        loss, right = 0.0, 0
        for first in range(0, number, self._batch):
            batch = self._valid.batch(np.arange(first, min(first + self._batch, number)))
            similarity, own, known = self.similarities(batch, place)
            loss += self._loss(similarity, own, known).item()
            right += int((contenders(similarity, own, known).argmax(1) == own).sum())
        return {self.measure: loss / number, "in_batch_accuracy": right / number}

    def similarities(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines (B, P) of a batch's queries and passages in float32 or better, with ``own`` (B,) and ``known`` (B, P)."""
        passages = batch.passages
        assert passages is not None
        queries, found = self._vectors(batch.ids, batch.lengths, place), self._vectors(passages.ids, passages.lengths, place)
        own, known = (torch.from_numpy(one).to(place.device) for one in (passages.own, passages.known))
        return queries @ found.mT, own, known

    def _loss(self, similarity: Tensor, own: Tensor, known: Tensor) -> Tensor:
        if self._contrast.loss == "orthogonal":
            return orthogonal(similarity, known).sum()
        return infonce(similarity, own, known, self._contrast.temperature).sum()

    def _vectors(self, ids: Ids, lengths: Integers, place: Place) -> Tensor:
        """The vectors of texts, of length 1, (N, D)."""
        rows = torch.from_numpy(ids).to(place.device).long()
        real = torch.arange(rows.shape[1], device=place.device) < torch.from_numpy(lengths).to(place.device)[:, None]
        with place.autocast():
            vectors = self.model(rows, None if bool(real.all()) else real, output="embedding")
        return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
