"""Next-token prediction: the cross entropy of each byte or token given those before it, in bits per byte.

Windows are cut from a corpus; a model may learn a part of each (PerceiverAR: one window of latents), drawn by the number of the batch.
Where the data say what is an answer (``data/synthetic.py``), the loss is of what is learned, and validation of the answers: bits per answer
and accuracy. B windows, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data.baselines import markov_bits, some_text, xz_bits
from subquad.data.batches import Batches, WindowBatch
from subquad.data.characters import Characters
from subquad.data.utf8 import span_text
from subquad.data.windows import Span
from subquad.errors import RunError
from subquad.format import count
from subquad.inference.answers import answer_spans
from subquad.inference.score import score, total
from subquad.metrics import score_answers
from subquad.models.base import BaseModelConfig, CausalModelConfig, Model, causal_model
from subquad.objectives.base import (
    Baseline,
    Metric,
    ModelRunner,
    ObjectiveConfig,
    Setup,
    TestOptions,
    TestResult,
)
from subquad.objectives.windows import WindowObjective
from subquad.ops.autocast import at_least_float32
from subquad.sections import Bars, Passage, Section

BITS_PER_BYTE = Metric("bits_per_byte", "bits per byte")
BITS_PER_ANSWER = Metric("bits_per_byte", "bits per answer")  # the same name in the log: an answer of a task is a byte
ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True)

REPORT_BYTES = 1 << 16  # scored for a report: enough for bits by position, seconds on a CPU
PASSAGE_BYTES = 1200
PIECE = 16_384  # bytes of a document that are scored in a test, where it has them
PARTS = 16  # of the context, in ``TestResult.by_position``
_BASELINE_BYTES = 1 << 21  # of the training part, seconds for xz
_IGNORED = -100


class NextTokenConfig(ObjectiveConfig):
    """There is nothing to set: the section ``data`` says what a sample is."""

    METRICS: ClassVar[tuple[Metric, ...]] = (BITS_PER_BYTE, ACCURACY)
    READS: ClassVar[frozenset[str]] = frozenset({"format", "column", "split", "pack", "shift", "image"})
    MODELS: ClassVar[str] = "a causal model such as megabyte-tiny"
    GENERATES: ClassVar[bool] = True
    NEXT: ClassVar[str] = "subquad generate {run} --max-bytes 400"
    READS_TASKS: ClassVar[bool] = True

    kind: Literal["next_token"] = "next_token"

    @classmethod
    def trains(cls, model: BaseModelConfig) -> bool:
        return isinstance(model, CausalModelConfig)

    def build(self, setup: Setup) -> NextToken:
        return NextToken(setup)

    def loss_metric(self, model: BaseModelConfig, task: bool = False) -> Metric:
        return BITS_PER_ANSWER if task else BITS_PER_BYTE

    @property
    def logits_share(self) -> float:
        return 1.0


class NextToken(WindowObjective[WindowBatch]):
    """See the module's docstring."""

    @property
    def loss_metric(self) -> Metric:
        return BITS_PER_ANSWER if self.corpus.task else BITS_PER_BYTE

    def cut_windows(self, model: Model, window: int) -> None:
        data, seed, samples = self.setup.data, self.setup.seed, self.setup.eval_samples
        self._train = Batches(self.split.train, window, seed, data.pack, data.shift, self.tokenizer)
        self._valid: WindowBatch | None = None
        if self.split.valid and samples:
            self._valid = Batches(self.split.valid, window, seed, data.pack, False, self.tokenizer).in_order(samples)
        self._training_spans = model.training_spans

    @property
    def metric_names(self) -> tuple[str, ...]:
        if self._valid is None:
            return ()
        return (BITS_PER_BYTE.name,) if self._valid.answers is None else (BITS_PER_BYTE.name, ACCURACY.name)

    def batch(self, first: int, count: int) -> WindowBatch:
        batch = self._train.batch(first, count)
        spans = self._training_spans(int(batch.lengths.max()))
        drawn = int(np.random.default_rng([self.setup.seed, first]).integers(len(spans))) if len(spans) > 1 else 0
        return replace(batch, span=spans[drawn])

    def loss(self, model: ModelRunner, batch: WindowBatch) -> Tensor:
        first, end = batch.span or batch.whole
        logits, ids = self._logits(model, batch)  # (B, end - first, V), (B, end - first)
        counted = None if batch.learned is None else model.tensor(batch.learned[:, first:end])
        return cross_entropy_sum(logits, ids, (batch.lengths.clip(first, end) - first).tolist(), counted)

    def num_targets(self, batch: WindowBatch) -> int:
        return max(batch.count(batch.learned, batch.span or batch.whole), 1)  # a span that is drawn may hold nothing to learn

    def num_bytes(self, batch: WindowBatch) -> int:
        return batch.bytes(batch.span or batch.whole, self.tokenizer)

    def mean_loss(self, total: float, batch: WindowBatch) -> float:
        return total / (self.num_bytes(batch) if batch.learned is None else self.num_targets(batch)) / math.log(2)

    def evaluate(self, model: ModelRunner, batch_size: int) -> dict[str, float]:
        valid = self._valid
        assert valid is not None
        parts = [valid.rows(first, first + batch_size) for first in range(0, len(valid.ids), batch_size)]
        if valid.answers is None:
            return {BITS_PER_BYTE.name: self.mean_loss(sum(self.loss(model, part).item() for part in parts), valid)}
        tolerance = self.corpus.task.tolerance if self.corpus.task else 0
        nats, correct, count = 0.0, 0, valid.count(valid.answers, valid.whole)
        for part in parts:
            assert part.answers is not None
            part_nats, part_correct = score_answers(*self._logits(model, part), model.tensor(part.answers), tolerance)
            nats, correct = nats + part_nats, correct + part_correct
        return {BITS_PER_BYTE.name: nats / count / math.log(2), ACCURACY.name: correct / count}

    def test(self, model: Model, options: TestOptions) -> TestResult:
        """Bits per byte by each windowing that the model has, on pieces of the largest documents; of a task accuracy on all answers."""
        causal = causal_model(model, "next-token prediction")
        if self.corpus.task is not None:
            answers = answer_spans(causal, self.split.test, self.corpus.task)
            return TestResult({"basic": answers.bits}, answers.count, {ACCURACY.name: answers.accuracy})
        texts = pieces(self.split.test, options.max_bytes, whole_characters=causal.tokenizer is not None)
        patched = causal.patch_size > 1
        loss: dict[str, float] = {}
        basic: list[npt.NDArray[np.float32]] = []
        for windowing in options.windowings:
            if windowing in ("strided", "both") and not patched:
                continue
            sliding, strided = windowing in ("sliding", "both"), windowing in ("strided", "both")
            scores = [score(causal, text, sliding=sliding, strided=strided) for text in texts]
            bits = total(scores).bits_per_byte
            if bits is None:
                raise RunError("the test part has no bytes to score: raise its fraction")
            loss[windowing] = bits
            basic = [piece.bits for piece in scores] if windowing == "basic" else basic
        inside = mean_by_part(basic, causal.patch_size, causal.patch_size) if patched else []
        by_position = mean_by_part(basic, causal.max_len, PARTS) if causal.tokenizer is None else []
        return TestResult(loss, sum(map(len, basic)), {}, inside, by_position)

    def baseline(self, options: TestOptions) -> Baseline | None:
        """``xz -9e`` on the same pieces, which goes on from text of the training part; on DNA, which it packs badly, a Markov model."""
        if self.corpus.task is not None:
            return None
        test = b"".join(pieces(self.split.test, options.max_bytes, whole_characters=self.tokenizer is not None))
        before = some_text(self.split.train, _BASELINE_BYTES)
        after = f"after {count(len(before), 'B')} of the training part"
        if isinstance(self.tokenizer, Characters):
            bits, order = markov_bits(self.tokenizer.ids(before), self.tokenizer.ids(test))
            return Baseline(f"a Markov model of order {order}, {after}", self.loss_metric.name, bits)
        return Baseline(f"xz -9e, {after}", self.loss_metric.name, xz_bits(before, test))

    def sections(self, model: Model) -> list[Section]:
        """A passage of the largest held-out document with the bits of its bytes, and their means inside a patch."""
        causal = causal_model(model, "next-token prediction")
        parts = {"Validation": self.split.valid, "Test": self.split.test, "Training": self.split.train}
        part, spans = next((name, spans) for name, spans in parts.items() if spans)
        span = max(spans, key=lambda span: span.size)
        end = min(span.size, REPORT_BYTES)
        data = span.read(0, end).tobytes() if causal.tokenizer is None else span_text(span, 0, end)
        bits = score(causal, data).bits
        patch_size = causal.patch_size if causal.tokenizer is None else 1  # a patch of tokens has no fixed number of bytes
        sections: list[Section] = []
        if inside := mean_by_part([bits], patch_size, patch_size) if patch_size > 1 else []:
            sections.append(
                Bars(
                    "Bits by position inside the patch",
                    "byte of the patch",
                    BITS_PER_BYTE.label,
                    inside,
                    f"On {part.lower()} data. The global model sees the bytes before the patch, the local model alone those inside it.",
                )
            )
        title = f"{part} data: {span.document.name}"
        return [*sections, Passage(title, data[:PASSAGE_BYTES], bits[:PASSAGE_BYTES].tolist(), patch_size)]

    def _logits(self, model: ModelRunner, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Logits and ids at the positions of the batch's span, or at all of them."""
        first, end = batch.span or batch.whole
        span = None if (first, end) == batch.whole else (first, end)
        logits = model.run({"ids": model.tensor(batch.ids), "span": span})
        return logits, model.tensor(batch.ids[:, first:end])


def cross_entropy_sum(logits: Tensor, ids: Tensor, lengths: Sequence[int], counted: Tensor | None = None) -> Tensor:
    """Nats of ids (B, T) under logits (B, T, V), summed over the first ``lengths[b]`` positions of each row, in float32 or better.

    Of those, only the ``counted`` ones, a mask (B, T), where there is one.
    """
    if min(lengths, default=ids.shape[1]) < ids.shape[1]:
        ends = torch.tensor(lengths, device=ids.device)[:, None]
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= ends, _IGNORED)
    if counted is not None:
        ids = ids.masked_fill(~counted, _IGNORED)
    logits = logits.to(at_least_float32(logits.dtype))
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=_IGNORED, reduction="sum")


def pieces(spans: Sequence[Span], size: int, whole_characters: bool) -> list[bytes]:
    """About ``size`` bytes of documents: equal pieces of as many of the largest as hold pieces of ``PIECE`` bytes.

    Few long pieces rather than many short ones: a model is to be scored on windows as long as it can read.
    """
    largest = sorted(spans, key=lambda span: (-span.size, span.document.name))[: max(1, size // PIECE)]
    each = math.ceil(size / max(len(largest), 1))
    cut = [span._replace(stop=min(span.stop, span.start + each)) for span in largest]
    return [span_text(span) if whole_characters else span.read(0, span.size).tobytes() for span in cut]


def mean_by_part(rows: Sequence[npt.NDArray[np.float32]], period: int, parts: int) -> list[float]:
    """Mean bits in each of ``parts`` equal parts of every ``period`` bytes; empty where a part has no byte."""
    part = np.concatenate([np.arange(len(row)) % period * parts // period for row in rows])
    sums, counts = np.bincount(part, np.concatenate(rows), parts), np.bincount(part, minlength=parts)
    return [float(mean) for mean in sums / counts] if counts.all() else []
