"""Windows as batches, with what each of their positions is for where the documents say so.

The marks of a document are cut by the same ``Windows`` as its bytes, so each is where its byte is. B windows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from subquad.data.batching import Mask
from subquad.data.documents import Bytes
from subquad.data.shuffle import Integers
from subquad.data.synthetic import ANSWER, LEARNED
from subquad.data.tokenizer import AnyTokenizer, count_bytes, tokenized
from subquad.data.windows import Ids, Span, Windows


@dataclass(frozen=True)
class MarkSpan:
    """The marks of a span as something to cut windows from."""

    span: Span

    @property
    def size(self) -> int:
        """One for each byte."""
        return self.span.size

    def read(self, start: int, stop: int) -> Bytes:
        """Marks start..stop-1."""
        document, first = self.span.document, self.span.document.offset + self.span.start
        assert document.marks is not None
        return document.marks.read(first + start, first + stop)


@dataclass(frozen=True)
class WindowBatch:
    """``ids`` (B, T), of which row b has ``lengths[b]``, and ``marks`` (B, T) where documents have them.

    ``span`` are the positions that a training step learns, None for all.
    """

    ids: Ids
    lengths: Integers
    marks: Bytes | None = None
    span: tuple[int, int] | None = None

    def rows(self, first: int, stop: int) -> WindowBatch:
        """Some of its windows."""
        marks = None if self.marks is None else self.marks[first:stop]
        return replace(self, ids=self.ids[first:stop], lengths=self.lengths[first:stop], marks=marks)

    @property
    def whole(self) -> tuple[int, int]:
        """The span of all its positions."""
        return 0, self.ids.shape[1]

    @property
    def answers(self) -> Mask | None:
        """(B, T): which positions are answers; None where documents have no marks."""
        return None if self.marks is None else (self.marks & ANSWER) > 0

    @property
    def learned(self) -> Mask | None:
        """(B, T): which positions count in training; None where all inside the lengths do."""
        return None if self.marks is None else (self.marks & LEARNED) > 0

    def count(self, counted: Mask | None, span: tuple[int, int]) -> int:
        """Positions of a span that are inside the lengths and counted."""
        if counted is None:
            return int((self.lengths.clip(*span) - span[0]).sum())
        return int(counted[:, slice(*span)].sum())

    def bytes(self, span: tuple[int, int], tokenizer: AnyTokenizer | None = None) -> int:
        """Bytes that the ids of a span stand for."""
        return count_bytes(self.ids, self.lengths, span, tokenizer)


class Batches:
    """Windows over spans, or over their tokens, as batches; arguments as of ``Windows``."""

    def __init__(
        self,
        spans: Sequence[Span],
        length: int,
        seed: int,
        pack: bool = False,
        shift: bool = True,
        tokenizer: AnyTokenizer | None = None,
    ) -> None:
        self.windows = Windows(tokenized(spans, tokenizer), length, seed, pack, shift)
        marked = all(span.document.marks is not None for span in spans)
        self._marks = Windows([MarkSpan(span) for span in spans], length, seed, pack, shift) if marked else None

    def batch(self, first: int, count: int) -> WindowBatch:
        """The samples first..first+count-1 of the endless order."""
        marks = None if self._marks is None else np.asarray(self._marks.batch(first, count)[0], np.uint8)
        return WindowBatch(*self.windows.batch(first, count), marks)

    def in_order(self, limit: int | None = None) -> WindowBatch:
        """Plain windows that do not overlap, or ``limit`` of them, evenly spread."""
        marks = None if self._marks is None else np.asarray(self._marks.in_order(limit)[0], np.uint8)
        return WindowBatch(*self.windows.in_order(limit), marks)
