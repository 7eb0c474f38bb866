"""Masked language modelling (BERT, arXiv 1810.04805; M2-BERT, arXiv 2310.12109, section 5.1): ids are guessed from both sides.

Windows are cut from a corpus as for any model; a tokenizer's special tokens then stand around each. ``data/masking.py`` hides ids: new ones
whenever a window is met again, and always the same of those that validate, whatever the run's seed. B windows, T ids, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data.batches import Batch
from subquad.data.corpus import Corpus
from subquad.data.masking import add_special_tokens, mask_ids
from subquad.data.shuffle import Integers
from subquad.data.subwords import Reader, Subwords, stretches
from subquad.data.windows import Ids, Span, Windows
from subquad.models.encoder import Encoder
from subquad.training.config import DataConfig, TrainConfig
from subquad.training.objectives import Objective, Place, settled_tokenizer

_VALID_SEED = 0


class MaskedPrediction(Objective):
    """What stands at hidden positions, measured by the mean cross entropy of one in nats, and by the share guessed right.

    Raises ``ValueError`` for an encoder that has nothing to stand for what is hidden.
    """

    measure, unit = "cross_entropy", "nats"
    tokenizer: Reader | None

    def __init__(self, model: Encoder, corpus: Corpus) -> None:
        if model.config.mask_token is None:
            raise ValueError('nothing stands for ids that are hidden: set model.mask_token to "learned", or to the id of [MASK]')
        self.model: Encoder = model
        self.corpus = corpus

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    def window(self, data: DataConfig) -> int:
        if self.corpus.task is not None:
            raise ValueError("a task asks what comes next, and an encoder guesses what is hidden: name files, or another model")
        window = data.window or (data.image.size if data.image else self.model.max_len)
        if window > self.model.max_len:
            raise ValueError(f"a window of {window} ids exceeds the model's context of {self.model.max_len}: lower data.window")
        return window

    def set_up(self, config: TrainConfig, kept: Path | None = None) -> None:
        data, window = config.data, self.window(config.data)
        self.split = self.corpus.split(data.fractions, data.split, config.seed if data.split_seed is None else data.split_seed)
        self.tokenizer = settled_tokenizer(self.model, self.model.vocab, data.tokenizer, kept, self.split.train)
        self._check_blank()
        self._frame = self.tokenizer.frame if isinstance(self.tokenizer, Subwords) else ([], [])
        self._config, self._seed = config.mask, config.seed
        self._inner = window - sum(map(len, self._frame))
        if self._inner < 1:
            raise ValueError(f"a window of {window} ids is all special tokens: raise data.window")
        self._train = Windows(stretches(self.split.train, self.tokenizer), self._inner, config.seed, data.pack, data.shift)
        self._bytes_an_id = _size(self.split.train) / self._train.bytes
        windows = config.eval.windows
        self._valid = self._held_out(self.split.valid, windows, data.pack) if self.split.valid and windows else None

    def _check_blank(self) -> None:
        """Raises ``ValueError`` for a blank that stands for itself too."""
        own, tokenizer = self.model.config.mask_token, self.tokenizer
        blank = tokenizer.blank if isinstance(tokenizer, Subwords) else None
        if not isinstance(own, int) or own == blank or own >= (256 if tokenizer is None else tokenizer.vocab):
            return
        if blank is not None:
            raise ValueError(f"the tokenizer's [MASK] is id {blank} and the model's blank {own}: set model.mask_token={blank}")
        what = "of bytes" if tokenizer is None else "of the tokenizer, which has no [MASK],"
        raise ValueError(f"id {own} {what} would be read as a blank: set model.mask_token=learned, or a data.tokenizer that has a [MASK]")

    def _masked(self, ids: Ids, lengths: Integers, numbers: Integers, share: float, seed: int) -> Batch:
        rows, sizes, maskable = add_special_tokens(ids, lengths, self._frame)
        vocab = 256 if self.tokenizer is None else self.tokenizer.vocab
        return Batch(rows, sizes, masked=mask_ids(rows, maskable, numbers, share, self._config, vocab, seed))

    def _held_out(self, spans: list[Span], windows: int, pack: bool) -> Batch:
        """That many windows of held-out text, with always the same ids hidden."""
        cut = Windows(stretches(spans, self.tokenizer), self._inner, _VALID_SEED, pack, False)
        ids, lengths = cut.in_order(windows)
        return self._masked(ids, lengths, np.arange(len(ids)), self._config.eval_mlm_probability, _VALID_SEED)

    @property
    def figures(self) -> tuple[str, ...]:
        return () if self._valid is None else (self.measure, "masked_accuracy")

    def record(self) -> dict[str, Any]:
        return self.corpus.record(self.split)

    def batch(self, first: int, count: int) -> Batch:
        numbers = np.arange(first, first + count)
        return self._masked(*self._train.batch(first, count), numbers, self._config.mlm_probability, self._seed)

    def nats(self, batch: Batch, place: Place) -> Tensor:
        logits, asked = self._logits(batch, place)
        return F.cross_entropy(logits, asked, reduction="sum")

    def count(self, batch: Batch) -> int:
        assert batch.masked is not None
        return max(int(batch.masked.targets.sum()), 1)

    def bytes(self, batch: Batch) -> int:
        """Of a tokenizer whose ids do not give the text back, by the mean of the training part."""
        return round(int(batch.lengths.sum()) * self._bytes_an_id)

    def loss(self, nats: float, batch: Batch) -> float:
        return nats / self.count(batch)

    def validate(self, size: int, place: Place) -> dict[str, float] | None:
        return None if self._valid is None else self._judged(self._valid, size, place)

    @torch.inference_mode()
    def judge(self, spans: list[Span], bytes_: int, size: int, place: Place) -> tuple[dict[str, float], int]:
        """What ``validate`` gives, of about ``bytes_`` bytes of other held-out text, and how many they are; ``size`` windows at once."""
        batch = self._held_out(spans, max(1, round(bytes_ / self._bytes_an_id / self._inner)), pack=False)
        self.model.eval()
        return self._judged(batch, size, place), self.bytes(batch)

    def _judged(self, held_out: Batch, size: int, place: Place) -> dict[str, float]:
        nats, right = 0.0, 0
        for first in range(0, len(held_out.ids), size):
            logits, asked = self._logits(held_out.rows(first, first + size), place)
            nats += F.cross_entropy(logits, asked, reduction="sum").item()
            right += int((logits.argmax(1) == asked).sum())
        number = self.count(held_out)
        return {self.measure: nats / number, "masked_accuracy": right / number}

    def _logits(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        """Logits (N, V) and ids (N,) at the positions that are asked for, in float32 or better."""
        masked = batch.masked
        assert masked is not None
        read, ids = (torch.from_numpy(one).to(place.device).long() for one in (masked.input_ids, batch.ids))
        blanks, asked = (torch.from_numpy(one).to(place.device) for one in (masked.masked, masked.targets))
        real = torch.arange(ids.shape[1], device=place.device) < torch.from_numpy(batch.lengths).to(place.device)[:, None]
        with place.autocast():
            positions = asked.flatten().nonzero().squeeze(1)
            logits = self.model(read, None if bool(real.all()) else real, masked=blanks, positions=positions)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), ids[asked]


def _size(spans: list[Span]) -> int:
    return sum(span.size for span in spans)
