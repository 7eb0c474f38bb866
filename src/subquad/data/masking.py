"""Ids that are hidden to be guessed from what stands around them (BERT, arXiv 1810.04805, section 3.1).

Each id is asked for with a probability, at least one in each row. Of those asked for 80 % are blank, 10 % are another id, drawn from the
whole vocabulary, and 10 % stand as they are: these make a model keep in mind that any id may be wrong. M2-BERT asks for 30 % in training
and 15 % in evaluation. What is drawn is a pure function of the seed, the number of the sample and the position. B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from subquad.config import Config
from subquad.data.shuffle import Integers, keyed
from subquad.data.windows import Ids

Mask = npt.NDArray[np.bool_]

_ASKED, _FATE, _OTHER = 0x61736B, 0x66617465, 0x6F74686572  # keep the random words of the three draws apart


class MaskConfig(Config):
    """``train`` and ``valid`` are the shares of ids that are asked for; of these, ``blank`` and ``other`` say how many are hidden how."""

    train: float = Field(0.3, gt=0, lt=1)
    valid: float = Field(0.15, gt=0, lt=1)
    blank: float = Field(0.8, ge=0, le=1)
    other: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _shares(self) -> MaskConfig:
        if self.blank + self.other > 1 + 1e-9:
            raise ValueError(f"of the ids asked for at most all are hidden, got blank={self.blank} and other={self.other}: lower one")
        return self


@dataclass(frozen=True)
class Masked:
    """``read`` (B, T) are the ids as a model gets them, ``blanks`` (B, T) where it gets none, ``asked`` (B, T) where it has to guess."""

    read: Ids
    blanks: Mask
    asked: Mask

    def rows(self, first: int, stop: int) -> Masked:
        """Some of its rows."""
        return Masked(self.read[first:stop], self.blanks[first:stop], self.asked[first:stop])


def mask_ids(ids: Ids, free: Mask, numbers: Integers, share: float, config: MaskConfig, vocab: int, seed: int) -> Masked:
    """Hides some of the ids (B, T) where they are ``free`` (B, T); ``numbers`` (B,) are those of the samples.

    A row without a free id is asked for nothing.
    """
    places = np.arange(ids.shape[1])[None, :]
    draws = [keyed(seed, draw, numbers[:, None], places) for draw in (_ASKED, _FATE, _OTHER)]
    chance, fate = (np.where(free, words / 2.0**64, 2.0) for words in draws[:2])
    asked = (chance < share) | ((chance == chance.min(1, keepdims=True)) & free)
    blanks = asked & (fate < config.blank)
    others = asked & ~blanks & (fate < config.blank + config.other)
    return Masked(np.where(others, (draws[2] % np.uint64(vocab)).astype(ids.dtype), ids), blanks, asked)


def framed(ids: Ids, lengths: Integers, before: Sequence[int], after: Sequence[int]) -> tuple[Ids, Integers, Mask]:
    """Rows between special tokens: ids (B, T + specials), their lengths (B,), and where they are free, which is not special (B, same)."""
    first, last = len(before), len(after)
    width = ids.shape[1] + first + last
    free = np.zeros((len(ids), width), dtype=np.bool_)
    free[:, first : first + ids.shape[1]] = np.arange(ids.shape[1]) < lengths[:, None]
    if not first + last:
        return ids, lengths, free
    found: Ids = np.zeros((len(ids), width), dtype=np.int32)
    found[:, :first] = before
    found[:, first : first + ids.shape[1]] = ids
    ends = first + lengths[:, None] + np.arange(last)
    np.put_along_axis(found, ends, np.broadcast_to(np.array(after, dtype=np.int32), ends.shape), 1)
    return found, lengths + first + last, free
