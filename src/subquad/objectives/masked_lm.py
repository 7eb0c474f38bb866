"""Masked language modelling (BERT, arXiv 1810.04805; M2-BERT, arXiv 2310.12109, section 5.1): ids are predicted from both sides.

Windows are cut from a corpus as for any model; a tokenizer's special tokens are then added to each. ``data/masking.py`` draws the masked
positions: new ones each time a window is seen, and always the same in validation, whatever the run's seed. B windows, T ids, N masked
positions, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from subquad.data.batching import length_mask
from subquad.data.masking import MaskConfig, MaskedIds, add_special_tokens, mask_ids
from subquad.data.shuffle import Integers
from subquad.data.tokenizer import tokenized
from subquad.data.windows import Ids, Span, Windows
from subquad.errors import RunError
from subquad.models.base import BaseModelConfig, Model
from subquad.models.encoder import Encoder, EncoderConfig
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
from subquad.sections import Section, Table

LOSS = Metric("cross_entropy", "nats per masked position")
ACCURACY = Metric("masked_accuracy", "accuracy at masked positions", higher_is_better=True)

_VALID_SEED = 0
_COUNTED_WINDOWS = 256  # whose ids a baseline counts
_FILLED, _AROUND = 12, 40  # masked positions that a report shows, and ids on each side of them
_BLANK = "▁"


class MaskedLMConfig(ObjectiveConfig, MaskConfig):
    """How many ids are masked and how, see ``MaskConfig``."""

    METRICS: ClassVar[tuple[Metric, ...]] = (LOSS, ACCURACY)
    READS: ClassVar[frozenset[str]] = frozenset({"format", "column", "split", "pack", "shift", "image"})
    MODELS: ClassVar[str] = "an encoder such as m2-bert-tiny"

    kind: Literal["masked_lm"] = "masked_lm"

    @classmethod
    def trains(cls, model: BaseModelConfig) -> bool:
        return isinstance(model, EncoderConfig) and model.head == "mlm"

    def build(self, setup: Setup) -> MaskedLM:
        return MaskedLM(self, setup)

    def reading_inputs(self, model: Model, length: int) -> dict[str, Any]:
        """Without the head, which predicts a few positions alone, and with filter spectra, which the weights alone decide."""
        assert isinstance(model, Encoder)
        return {"output": "hidden", "spectra": model.prepare(length)}

    @property
    def logits_share(self) -> float:
        return self.mlm_probability


@dataclass(frozen=True)
class MaskedBatch:
    """``ids`` (B, T), of which row b has ``lengths[b]``, and what is masked of them."""

    ids: Ids
    lengths: Integers
    masked: MaskedIds

    def rows(self, first: int, stop: int) -> MaskedBatch:
        """Some of its windows."""
        return MaskedBatch(self.ids[first:stop], self.lengths[first:stop], self.masked.rows(first, stop))


class MaskedLM(WindowObjective[MaskedBatch]):
    """See the module's docstring; accuracy is the share of masked positions whose most likely id is the right one.

    Raises ``ValueError`` for an encoder without a mask token.
    """

    def __init__(self, config: MaskedLMConfig, setup: Setup) -> None:
        super().__init__(setup)
        assert isinstance(setup.model, EncoderConfig)
        if self.corpus.task is not None:
            raise ValueError("tasks are for causal models, and an encoder predicts masked positions: use files, or another model")
        if setup.model.mask_token is None:
            raise ValueError('the encoder has no mask token: set model.mask_token to "learned", or to the id of [MASK]')
        self.config, self.mask_token = config, setup.model.mask_token

    @property
    def loss_metric(self) -> Metric:
        return LOSS

    def cut_windows(self, model: Model, window: int) -> None:
        data, seed, samples = self.setup.data, self.setup.seed, self.setup.eval_samples
        self._check_mask_token()
        self._special_tokens = self.tokenizer.special_tokens if self.tokenizer is not None else ([], [])
        self._text_len = window - sum(map(len, self._special_tokens))  # ids of text in a window
        if self._text_len < 1:
            raise ValueError(f"a window of {window} ids has no room beside the special tokens: raise data.window")
        self._train = Windows(tokenized(self.split.train, self.tokenizer), self._text_len, seed, data.pack, data.shift)
        self._bytes_per_id = sum(span.size for span in self.split.train) / self._train.bytes
        self._valid = self._held_out(self.split.valid, samples, data.pack) if self.split.valid and samples else None

    def _check_mask_token(self) -> None:
        """Raises ``ValueError`` where the mask token's id is one that text may have."""
        token, tokenizer = self.mask_token, self.tokenizer
        mask_id = None if tokenizer is None else tokenizer.mask_id
        if not isinstance(token, int) or token == mask_id or token >= (256 if tokenizer is None else tokenizer.vocab):
            return
        if mask_id is not None:
            raise ValueError(f"the tokenizer's [MASK] is id {mask_id} and the model's mask token {token}: set model.mask_token={mask_id}")
        what = "a byte" if tokenizer is None else "a token of the tokenizer, which has no [MASK]"
        raise ValueError(
            f"the mask token {token} is also {what}: set model.mask_token=learned, or data.tokenizer to a tokenizer that has a [MASK]"
        )

    def _masked(self, ids: Ids, lengths: Integers, samples: Integers, probability: float, seed: int) -> MaskedBatch:
        rows, sizes, text = add_special_tokens(ids, lengths, self._special_tokens)
        vocab = 256 if self.tokenizer is None else self.tokenizer.vocab
        return MaskedBatch(rows, sizes, mask_ids(rows, text, samples, probability, self.config, vocab, seed))

    def _held_out(self, spans: list[Span], samples: int, pack: bool) -> MaskedBatch:
        """That many windows of held-out text, with always the same positions masked."""
        windows = Windows(tokenized(spans, self.tokenizer), self._text_len, _VALID_SEED, pack, False)
        ids, lengths = windows.in_order(samples)
        return self._masked(ids, lengths, np.arange(len(ids)), self.config.eval_mlm_probability, _VALID_SEED)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return () if self._valid is None else (LOSS.name, ACCURACY.name)

    def batch(self, first: int, count: int) -> MaskedBatch:
        samples = np.arange(first, first + count)
        return self._masked(*self._train.batch(first, count), samples, self.config.mlm_probability, self.setup.seed)

    def loss(self, model: ModelRunner, batch: MaskedBatch) -> Tensor:
        logits, targets = self._logits(model, batch)
        return F.cross_entropy(logits, targets, reduction="sum")

    def num_targets(self, batch: MaskedBatch) -> int:
        return max(int(batch.masked.targets.sum()), 1)

    def num_bytes(self, batch: MaskedBatch) -> int:
        """By the mean of the training part, since not every tokenizer's ids give the text back."""
        return round(int(batch.lengths.sum()) * self._bytes_per_id)

    def evaluate(self, model: ModelRunner, batch_size: int) -> dict[str, float]:
        assert self._valid is not None
        return self._evaluate(model, self._valid, batch_size)

    def test(self, model: Model, options: TestOptions) -> TestResult:
        """Loss and accuracy at masked positions of windows of the test part."""
        if not self.split.test:
            raise RunError("the data have no test part: raise the last of data.fractions")
        batch = self._tested(options)
        metrics = self._evaluate(ModelRunner.of(model), batch, options.batch_size)
        return TestResult({"basic": metrics.pop(LOSS.name)}, self.num_bytes(batch), metrics)

    def baseline(self, options: TestOptions) -> Baseline:
        """The id that is most frequent in some training windows, at every masked position."""
        ids, lengths = self._train.batch(0, _COUNTED_WINDOWS)
        frequent = int(np.bincount(ids[length_mask(lengths, ids.shape[1])]).argmax())
        batch = self._tested(options)
        share = float((batch.ids[batch.masked.targets] == frequent).mean())
        return Baseline(f"always {self._text([frequent])}", ACCURACY.name, share)

    def _tested(self, options: TestOptions) -> MaskedBatch:
        windows = max(1, round(options.max_bytes / self._bytes_per_id / self._text_len))
        return self._held_out(self.split.test, windows, pack=False)

    def sections(self, model: Model) -> list[Section]:
        """Masked positions of the test part, or else of the validation part, with the ids that the model holds most likely there."""
        part, spans = ("test", self.split.test) if self.has_test else ("validation", self.split.valid)
        if not any(span.size for span in spans):
            return []
        batch = self._held_out(spans, _FILLED, pack=False)
        logits, targets = self._logits(ModelRunner.of(model), batch)
        values, best = logits.softmax(1).topk(min(3, logits.shape[1]))  # (N, 3)
        blanks = [(row, column) for row, column in np.argwhere(batch.masked.targets).tolist()]
        shown = [number for number, place in enumerate(blanks) if batch.masked.masked[place]]  # not those that were left or replaced
        shown = shown[:: max(1, len(shown) // _FILLED)][:_FILLED]
        rows = []
        for number in shown:
            guesses = zip(best[number].tolist(), values[number].tolist(), strict=True)
            words = ", ".join(f"{self._text([guess])} {probability:.0%}" for guess, probability in guesses)
            rows.append([self._context(batch, *blanks[number]), self._text([int(targets[number])]), words])
        note = f"Of the {part} part. {_BLANK} is a masked position, [{_BLANK}] the one that is predicted; some other ids are random."
        return [Table("Filled blanks", ["text", "right", "prediction"], rows, note, wrap=True)] if rows else []

    def _context(self, batch: MaskedBatch, row: int, column: int) -> str:
        """The ids around a masked position as text."""
        first, stop = max(column - _AROUND, 0), min(column + _AROUND + 1, int(batch.lengths[row]))
        parts = []
        for masked, group in itertools.groupby(range(first, stop), lambda place: place if batch.masked.masked[row, place] else -1):
            places = list(group)
            blank = f"[{_BLANK}]" if masked == column else _BLANK
            parts.append(self._text(batch.masked.input_ids[row, places].tolist(), "") if masked < 0 else blank)
        return (" " if self.tokenizer is not None and not self.tokenizer.reversible else "").join(parts)

    def _text(self, ids: Sequence[int], space: str = "␣") -> str:
        """Ids as text; a space by itself is shown as ``space``."""
        data = bytes(ids) if self.tokenizer is None else self.tokenizer.decode(ids)
        text = " ".join(data.decode("utf-8", "backslashreplace").splitlines()) if len(ids) > 1 else data.decode("utf-8", "backslashreplace")
        return text if text.strip() or not space else text.replace(" ", space).replace("\n", "↵")

    def _evaluate(self, model: ModelRunner, batch: MaskedBatch, batch_size: int) -> dict[str, float]:
        nats, correct = 0.0, 0
        for first in range(0, len(batch.ids), batch_size):
            logits, targets = self._logits(model, batch.rows(first, first + batch_size))
            nats += F.cross_entropy(logits, targets, reduction="sum").item()
            correct += int((logits.argmax(1) == targets).sum())
        count = self.num_targets(batch)
        return {LOSS.name: nats / count, ACCURACY.name: correct / count}

    def _logits(self, model: ModelRunner, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
        """Logits (N, V) and ids (N,) at the masked positions."""
        masked, width = batch.masked, batch.ids.shape[1]
        positions = np.flatnonzero(masked.targets)  # (N,) into B * T
        mask = length_mask(batch.lengths, width)
        logits = model.run(
            {
                "ids": masked.input_ids,
                "mask": None if mask.all() else mask,
                "masked": masked.masked,
                "positions": positions,
            }
        )
        return logits, model.tensor(batch.ids.reshape(-1)[positions])
