"""The order of samples: a keyed permutation, so the state of the data is one integer, the number of the next sample.

A permutation of [0, N) is a Feistel network on just enough bits to write N - 1; a value that falls outside is sent through again until
it falls inside (cycle walking: at most two passes in the mean). Nothing is stored and any sample's place costs the same, so resuming,
skipping and sharing out over ranks need no replay.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
Unsigned: TypeAlias = npt.NDArray[np.uint64]

_ROUNDS = 8
_WORD = (1 << 64) - 1


def keyed(seed: int, *parts: Unsigned | Integers | int) -> Unsigned:
    """Pseudo-random 64-bit words that depend on a seed and on each of the parts (integers or arrays of a common shape)."""
    word = _mix(np.asarray([seed & _WORD], dtype=np.uint64))
    for part in parts:
        word = _mix(word ^ np.asarray(part).astype(np.uint64))
    return word


def _mix(word: Unsigned) -> Unsigned:
    """The output function of splitmix64 (Steele, Lea, Flood 2014)."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


class Order:
    """An endless order of samples: epoch after epoch, each a permutation of [0, count) of its own."""

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(f"expected at least one sample to order, got {count}")
        self.count = count
        self.seed = seed
        bits = (count - 1).bit_length()
        self._right_bits = np.uint64(bits - bits // 2)
        self._left_mask = np.uint64((1 << bits // 2) - 1)
        self._right_mask = np.uint64((1 << (bits - bits // 2)) - 1)

    def at(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Sample numbers (n,), from 0 on, to their epochs (n,) and their places in [0, count) (n,)."""
        if numbers.size and numbers.min() < 0:
            raise ValueError(f"expected sample numbers from 0 on, got {numbers.min()}")
        epochs = numbers // self.count
        return epochs, self.permute(numbers % self.count, epochs)

    def permute(self, places: Integers, epochs: Integers) -> Integers:
        """Each place (n,) of [0, count) sent through the permutation of its epoch (n,)."""
        rounds = np.arange(_ROUNDS, dtype=np.uint64)[:, None]
        keys = keyed(self.seed, rounds, epochs[None, :])
        found = self._feistel(places.astype(np.uint64), keys)
        outside = np.flatnonzero(found >= self.count)
        while outside.size:
            found[outside] = self._feistel(found[outside], keys[:, outside])
            outside = outside[found[outside] >= self.count]
        return found.astype(np.int64)

    def _feistel(self, word: Unsigned, keys: Unsigned) -> Unsigned:
        """Each line undoes itself when applied again, whatever ``_mix`` does, so the whole is a bijection."""
        left, right = word >> self._right_bits, word & self._right_mask
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            left = left ^ (_mix(right ^ first) & self._left_mask)
            right = right ^ (_mix(left ^ second) & self._right_mask)
        return (left << self._right_bits) | right
