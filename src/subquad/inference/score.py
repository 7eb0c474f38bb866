"""How well a model predicts data: bits per byte of files of any length.

Every file is cut into windows of the model's context, each a new start. ``overlap=N`` reads the last N bytes of a window again at the
beginning of the next, as context only; ``sliding`` is an overlap of half a window. ``strided`` (MEGABYTE, section 2.3.3) reads each
window a second time from P // 2 bytes further on and takes each byte from the pass in which it is nearer to the start of its patch.

With a token model a file is encoded whole, and windows, their overlap and their patches count tokens. A token's bits are assigned to its
last byte, and 0 to its other bytes, so bits per byte are over the bytes of the file for every model.

B windows, T bytes, P bytes per patch.
"""

from __future__ import annotations

import codecs
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.data.documents import Document
from subquad.data.files import open_documents
from subquad.data.windows import Stretch, whole_span
from subquad.inference.checks import Progress, device_of, evaluating, expect_finite, text_model, whole
from subquad.inference.vocab import Vocab

_BATCH_LOGITS = 1 << 23
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """What it cost to predict some data.

    ``bits``: float32, one number per byte, ``-log2`` of the probability that the model gave it (to a token: on its last byte).
    ``seconds``: time spent. ``words``: words of the text between white space, None where the data is not UTF-8.
    """

    bits: npt.NDArray[np.float32]
    seconds: float
    words: int | None

    def __repr__(self) -> str:
        each = "None" if self.bits_per_byte is None else f"{self.bits_per_byte:.4f}"
        return f"Score(bits_per_byte={each}, bytes={self.bytes}, words={self.words}, seconds={self.seconds:.3g})"

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return self.bits.size

    @cached_property
    def total_bits(self) -> float:
        """Bits of all bytes together."""
        return float(self.bits.sum(dtype=np.float64))

    @property
    def bits_per_byte(self) -> float | None:
        """Mean bits of a byte; None for no bytes."""
        return self.total_bits / self.bytes if self.bytes else None

    @property
    def word_perplexity(self) -> float | None:
        """``2 ** (bits / words)``; None where the data is not UTF-8 text or has no word."""
        if not self.words:
            return None
        exponent = self.total_bits / self.words
        return 2.0**exponent if exponent < 1024 else math.inf


def total(scores: Iterable[Score]) -> Score:
    """Several scores as one, its words None unless all of them are text."""
    scores = list(scores)
    words = [score.words for score in scores if score.words is not None]
    bits = np.concatenate([np.empty(0, np.float32), *(score.bits for score in scores)])
    return Score(bits, sum(score.seconds for score in scores), sum(words) if len(words) == len(scores) else None)


def score(
    model: nn.Module,
    data: bytes | str | Path | Document,
    *,
    prompt: bytes | str = b"",
    overlap: int = 0,
    sliding: bool = False,
    strided: bool = False,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Bits of every byte of ``data``: bytes, a document, or a path, which is read window by window.

    What a path names is found and unpacked as training does: of a folder or an archive, the bits are those of its files, in their order.
    ``prompt`` is read before the data and not counted: bits are those of an answer to it (a token model tokenizes the two separately).
    ``overlap`` in bytes (of a token model: in tokens), ``batch`` in windows at a time (chosen when None; it does not change the result).
    ``progress(done, all)`` is called after each batch, with bytes or tokens. Raises ``ValueError`` for wrong options, an unreadable file, a
    token model without its tokenizer, and one whose file is not UTF-8.
    """
    windows = _Windows(model, overlap, sliding, strided, batch)
    before = prompt.encode("utf-8", "surrogateescape") if isinstance(prompt, str) else bytes(prompt)
    scores = [windows.score(document, progress, before) for document in _documents(data)]
    return scores[0] if len(scores) == 1 else total(scores)


def score_files(
    model: nn.Module,
    paths: Sequence[str | Path],
    *,
    overlap: int = 0,
    sliding: bool = False,
    strided: bool = False,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Path, Score]]:
    """The score of each file in turn; arguments and errors as in :func:`score`, wrong options and missing files raise at the call."""
    windows = _Windows(model, overlap, sliding, strided, batch)
    opened = [(Path(path), _documents(path)) for path in paths]
    return ((path, total(windows.score(document, progress) for document in documents)) for path, documents in opened)


def conditional_bits(model: nn.Module, prompt: bytes, continuation: bytes) -> float:
    """Bits, ``-log2`` of the probability that the model generates ``continuation`` after ``prompt``.

    A token model tokenizes the two separately, as a prompt and its answer, so another division of the same text may have other bits;
    for a byte model the division does not matter. Raises ``ValueError`` where both together exceed the context.
    """
    if not continuation:
        return 0.0
    causal, tokenizer = text_model(model)
    vocab = Vocab(causal.config.vocab, tokenizer)
    context, target = vocab.encode(prompt), vocab.encode(continuation)
    ids = torch.tensor([context + target], dtype=torch.long, device=device_of(model))  # (1, T)
    with evaluating(list(model.modules())):
        logits = model(ids)[0, len(context) :]
        nats = F.cross_entropy(logits.double(), ids[0, len(context) :], reduction="sum").item()
    return nats / math.log(2)


class _Windows:
    """A model and its windows over data. ``forward`` is the model that was passed in, perhaps compiled."""

    def __init__(self, model: nn.Module, overlap: int, sliding: bool, strided: bool, batch: int | None) -> None:
        self.forward = model
        causal, self.tokenizer = text_model(model)
        unit = "bytes" if self.tokenizer is None else "tokens"
        self.modules, self.device = list(model.modules()), device_of(model)
        self.length, self.patch_size = causal.config.max_len, causal.patch_size
        if sliding and overlap:
            raise ValueError(
                f"sliding is an overlap of half a window ({self.length // 2} {unit}), got overlap={overlap} too: give one of them"
            )
        overlap, batch = whole(overlap, "overlap"), None if batch is None else whole(batch, "batch")
        if not 0 <= overlap < self.length:
            raise ValueError(f"overlap must be from 0 to {self.length - 1}, less than the context of {self.length} {unit}, got {overlap}")
        if batch is not None and batch < 1:
            raise ValueError(f"batch must be at least 1 window, got {batch}")
        if strided and self.patch_size == 1:
            raise ValueError(f"strided needs a model with patches of 2 {unit} or more, got one without patches: leave it out")
        self.overlap = self.length // 2 if sliding else overlap
        self.half = self.patch_size // 2 if strided else 0
        self.batch = batch or max(1, _BATCH_LOGITS // (self.length * causal.config.vocab))

    def score(self, document: Document, progress: Progress | None, prompt: bytes = b"") -> Score:
        start = time.perf_counter()
        if self.tokenizer is None and not prompt:
            bits = self._score_ids(document, progress)
        elif self.tokenizer is None:
            self._expect_room(len(prompt))
            both = np.frombuffer(prompt + document.read().tobytes(), np.uint8)
            bits = self._score_ids(_Ids(both), progress)[len(prompt) :]
        else:
            before, ids = self.tokenizer.encode(prompt), self.tokenizer.encode(document.read().tobytes())
            self._expect_room(len(before))
            bits = np.zeros(document.size, dtype=np.float32)
            of_ids = self._score_ids(_Ids(np.concatenate([before, ids])), progress)[len(before) :]
            bits[self.tokenizer.byte_lengths[ids].cumsum() - 1] = of_ids
        return Score(bits, time.perf_counter() - start, _count_words(document))

    def _expect_room(self, before: int) -> None:
        if before >= self.length:
            raise ValueError(f"the prompt has {before} ids and the context is {self.length}, which leaves no room for a text: shorten it")

    def _score_ids(self, data: Stretch, progress: Progress | None) -> npt.NDArray[np.float32]:
        """Bits of every id, ``(n,)``."""
        bits = np.empty(data.size, dtype=np.float32)
        for starts in self._batches(data.size):
            length = min(self.length, data.size - starts[0])
            ids = torch.from_numpy(np.stack([data.read(start, start + length) for start in starts]))  # (B, T)
            with evaluating(self.modules):
                rows = self._pass(ids.to(self.device, torch.int64)).cpu().numpy()
            for start, row in zip(starts, rows, strict=True):
                context = self.overlap if start else 0
                bits[start + context : start + length] = row[context:]
            if progress is not None:
                progress(starts[-1] + length, data.size)
        return bits

    def _batches(self, size: int) -> Iterator[list[int]]:
        """Where windows start, in batches of windows of one length; the last window may be shorter and is then alone."""
        stride = self.length - self.overlap
        whole = (size - self.length) // stride + 1 if size >= self.length else 0
        for first in range(0, whole, self.batch):
            yield [index * stride for index in range(first, min(first + self.batch, whole))]
        covered = (whole - 1) * stride + self.length if whole else 0
        if covered < size:
            yield [whole * stride]

    def _pass(self, ids: Tensor) -> Tensor:
        """Bits ``(B, T)`` of whole windows, in two passes where strided."""
        bits = self._bits(ids)
        if self.half and ids.shape[1] > self.half:
            late = torch.arange(self.half, ids.shape[1], device=ids.device) % self.patch_size >= self.half
            bits[:, self.half :] = torch.where(late, self._bits(ids[:, self.half :]), bits[:, self.half :])
        return bits

    def _bits(self, ids: Tensor) -> Tensor:
        logits = self.forward(ids)  # (B, T, V)
        if logits.dtype != torch.float64:
            logits = logits.float()
        nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
        expect_finite(nats, "logits")
        return (nats / math.log(2)).view_as(ids)


class _Ids:
    """Ids in memory."""

    def __init__(self, values: npt.NDArray[np.integer[Any]]) -> None:
        self._values, self.size = values, len(values)

    def read(self, start: int, stop: int) -> npt.NDArray[np.integer[Any]]:
        return self._values[start:stop]


def _documents(data: bytes | str | Path | Document) -> list[Document]:
    if isinstance(data, Document):
        return [data]
    if isinstance(data, np.ndarray) and data.dtype == np.uint8:
        data = data.tobytes()
    if isinstance(data, bytes | bytearray | memoryview):
        return [whole_span(bytes(data), "the data").document]
    if not isinstance(data, str | Path):
        raise ValueError(f"data must be bytes or the path of a file, got {type(data).__name__}")
    return open_documents([data], as_given=True).documents


def _count_words(document: Document, chunk: int = _CHUNK) -> int | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    words, inside = 0, False
    for start in range(0, document.size, chunk):
        stop = min(start + chunk, document.size)
        try:
            text = decoder.decode(document.read(start, stop).tobytes(), final=stop == document.size)
        except UnicodeDecodeError:
            return None
        if text:
            words += len(text.split()) - (inside and not text[0].isspace())
            inside = not text[-1].isspace()
    return words
