"""Windows: the fixed-length samples that training and validation read from spans of documents, or from their tokens.

A document of n bytes gives ceil(n / length) windows an epoch. In epoch 0 window j starts at j * length; in later epochs all windows of
a document are shifted by one random phase in [-length / 2, length / 2), so the model meets the same bytes at other positions. Starts are
kept inside the document, so a window is short only when its whole document is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from subquad.data.documents import Bytes, Document, InMemory
from subquad.data.shuffle import Integers, Order, generator

Ids: TypeAlias = npt.NDArray[np.integer[Any]]  # bytes (uint8) or tokens


class Span(NamedTuple):
    """Bytes start..stop-1 of a document."""

    document: Document
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Its number of bytes."""
        return self.stop - self.start

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes start..stop-1, counted from the beginning of the span."""
        return self.document.read(self.start + start, self.start + stop)


def whole_span(text: bytes, name: str) -> Span:
    """All of a text in memory."""
    return Span(Document(name, len(text), InMemory(np.frombuffer(text, dtype=np.uint8))), 0, len(text))


class Stretch(Protocol):
    """What windows are cut from: ids that belong together, a span of bytes or its tokens."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> Ids: ...


class Joined:
    """Stretches one after another as one."""

    def __init__(self, spans: Sequence[Stretch]) -> None:
        self._spans = spans
        self._ends = np.cumsum([span.size for span in spans])
        self.size = int(self._ends[-1])

    def read(self, start: int, stop: int) -> Ids:
        """Ids start..stop-1 of the concatenation."""
        pieces = []
        index = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end = int(self._ends[index])
            span, upto = self._spans[index], min(stop, end)
            before = end - span.size
            pieces.append(span.read(start - before, upto - before))
            start, index = upto, index + 1
        return np.concatenate(pieces) if pieces else self._spans[0].read(0, 0)


class Windows:
    """Windows of ``length`` bytes (or tokens) over spans, in an endless shuffled order or plainly one after another.

    ``count`` is the number of windows an epoch, ``bytes`` the number of bytes (or tokens) in the spans. A window never holds two documents
    unless ``pack`` joins all spans into one. ``shift=False`` keeps every epoch's windows where epoch 0 has them. Everything is a pure
    function of the sample's number and the seed.
    """

    def __init__(self, spans: Sequence[Stretch], length: int, seed: int, pack: bool = False, shift: bool = True) -> None:
        spans = [span for span in spans if span.size]
        if length < 1:
            raise ValueError(f"expected a window of at least 1 byte, got {length}")
        if not spans:
            raise ValueError("expected bytes to cut windows from, got none: give more data or another split")
        self.bytes = sum(span.size for span in spans)
        if pack:
            spans = [Joined(spans)]
        self.length = length
        self._spans = spans
        self._sizes = np.fromiter((span.size for span in spans), dtype=np.int64, count=len(spans))
        self._ends = np.cumsum(-(-self._sizes // length))
        self.count = int(self._ends[-1])
        self._shift = shift
        self._order = Order(self.count, seed)
        self._epoch_phases: tuple[int, Integers] = (0, np.zeros_like(self._sizes))

    def batch(self, first: int, count: int) -> tuple[Ids, Integers]:
        """The samples first..first+count-1 of the endless order.

        Returns ids (count, length), bytes as uint8 and tokens as int32, and their true lengths (count,); ids beyond a row's length are 0
        and mean nothing.
        """
        epochs, places = self._order.at(np.arange(first, first + count, dtype=np.int64))
        spans, starts = self._locate(places)
        room = np.maximum(self._sizes[spans] - self.length, 0)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            starts[inside] += self._phases(epoch)[spans[inside]]
        return self._read(spans, np.clip(starts, 0, room))

    def in_order(self, limit: int | None = None) -> tuple[Ids, Integers]:
        """Plain windows that do not overlap, the last one of a document short: ids (n, length) and their true lengths (n,).

        With a ``limit`` below ``count``, that many of them, evenly spread from the first on; always the same ones.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"expected a limit of at least 1 window, got {limit}")
        number = self.count if limit is None else min(limit, self.count)
        return self._read(*self._locate(np.arange(number) * self.count // number))

    def _locate(self, places: Integers) -> tuple[Integers, Integers]:
        """The span of each window of epoch 0 and its start in that span."""
        spans = np.searchsorted(self._ends, places, side="right")
        first = self._ends[spans] - -(-self._sizes[spans] // self.length)
        return spans, (places - first) * self.length

    def _phases(self, epoch: int) -> Integers:
        """By how much the windows of each span are shifted in an epoch, (S,)."""
        if epoch == 0 or not self._shift:
            return np.zeros_like(self._sizes)
        if self._epoch_phases[0] != epoch:
            drawn = generator(self._order.seed, "phases", epoch).integers(self.length, size=len(self._sizes))
            self._epoch_phases = (epoch, drawn - self.length // 2)
        return self._epoch_phases[1]

    def _read(self, spans: Integers, starts: Integers) -> tuple[Ids, Integers]:
        lengths = np.minimum(self._sizes[spans] - starts, self.length)
        places = zip(spans.tolist(), starts.tolist(), lengths.tolist(), strict=True)
        rows = [self._spans[span].read(start, start + length) for span, start, length in places]
        ids: Ids = np.zeros((len(spans), self.length), dtype=rows[0].dtype if rows else np.uint8)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = values
        return ids, lengths
