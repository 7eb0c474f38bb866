"""Masked positions: ids that a model predicts from those around them (BERT, arXiv 1810.04805, section 3.1).

Each id is masked with a probability, and at least one in each row. Of the masked ids 80 % are replaced by the mask token, 10 % by an id
drawn from the whole vocabulary, and 10 % stay as they are: so a model learns that any id may be wrong. M2-BERT masks 30 % in
training and 15 % in evaluation. What is drawn is a pure function of the seed and the number of the sample. B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from subquad.config import Config
from subquad.data.batching import Mask, length_mask
from subquad.data.shuffle import Integers, generator
from subquad.data.windows import Ids


class MaskConfig(Config):
    """Shares of ids that are masked in training and in evaluation, and shares of these that the mask token or a random id replaces.

    The names are those of ``DataCollatorForLanguageModeling`` of Hugging Face.
    """

    RENAMED = {
        "train": "mlm_probability",
        "valid": "eval_mlm_probability",
        "blank": "mask_replace_prob",
        "other": "random_replace_prob",
    }

    mlm_probability: float = Field(0.3, gt=0, lt=1)
    eval_mlm_probability: float = Field(0.15, gt=0, lt=1)
    mask_replace_prob: float = Field(0.8, ge=0, le=1)
    random_replace_prob: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _shares(self) -> MaskConfig:
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ValueError(
                f"expected mask_replace_prob and random_replace_prob of at most 1 together, got {self.mask_replace_prob} and "
                f"{self.random_replace_prob}: lower one"
            )
        return self


@dataclass(frozen=True)
class MaskedIds:
    """``input_ids`` (B, T) as a model gets them, ``masked`` (B, T) where it gets the mask token instead, ``targets`` (B, T) where it
    predicts the original id."""

    input_ids: Ids
    masked: Mask
    targets: Mask

    def rows(self, first: int, stop: int) -> MaskedIds:
        """Some of its rows."""
        return MaskedIds(self.input_ids[first:stop], self.masked[first:stop], self.targets[first:stop])


def mask_ids(ids: Ids, maskable: Mask, numbers: Integers, probability: float, config: MaskConfig, vocab: int, seed: int) -> MaskedIds:
    """Masks some of the ids (B, T) where they are ``maskable`` (B, T), each with ``probability``, which is the config's
    ``mlm_probability`` or ``eval_mlm_probability``; ``numbers`` (B,) are those of the samples.

    A row without a maskable id has no target.
    """
    chance, replacement, random_ids = np.empty(ids.shape), np.empty(ids.shape), np.empty_like(ids)
    for row, number in enumerate(numbers.tolist()):
        random = generator(seed, "masks", number)
        chance[row], replacement[row] = random.random((2, ids.shape[1]))
        random_ids[row] = random.integers(vocab, size=ids.shape[1])
    chance[~maskable] = 2.0
    targets = maskable & ((chance < probability) | (chance == chance.min(1, keepdims=True)))
    masked = targets & (replacement < config.mask_replace_prob)
    replaced = targets & ~masked & (replacement < config.mask_replace_prob + config.random_replace_prob)
    return MaskedIds(np.where(replaced, random_ids, ids), masked, targets)


def add_special_tokens(ids: Ids, lengths: Integers, special_tokens: tuple[Sequence[int], Sequence[int]]) -> tuple[Ids, Integers, Mask]:
    """Rows between the special tokens before and after a text: ids (B, T + specials), their lengths (B,), and where they are not special
    (B, T + specials)."""
    before, after = special_tokens
    first, width = len(before), ids.shape[1] + len(before) + len(after)
    maskable = np.zeros((len(ids), width), dtype=np.bool_)
    maskable[:, first : first + ids.shape[1]] = length_mask(lengths, ids.shape[1])
    if width == ids.shape[1]:
        return ids, lengths, maskable
    rows: Ids = np.zeros((len(ids), width), dtype=np.int32)
    rows[:, :first] = before
    rows[:, first : first + ids.shape[1]] = ids
    ends = first + lengths[:, None] + np.arange(len(after))
    np.put_along_axis(rows, ends, np.broadcast_to(np.array(after, dtype=np.int32), ends.shape), 1)
    return rows, lengths + width - ids.shape[1], maskable
