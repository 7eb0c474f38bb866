"""The order of samples, a pure function of the seed: the state of the data is one integer, the number of the next sample.

Each epoch is another permutation. Only that of the current epoch is kept, 8 bytes a sample, so resuming and skipping need no replay.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on a seed, what they are for, and numbers such as a sample's, and on nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int.from_bytes(purpose.encode()), *numbers)))


class Order:
    """An endless order of samples: epoch after epoch, each another permutation of [0, count)."""

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(f"expected at least one sample to order, got {count}")
        self.count = count
        self.seed = seed
        self._current: tuple[int, Integers] = (-1, np.empty(0, dtype=np.int64))  # an epoch and its permutation

    def at(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Sample numbers (n,), from 0 on, to their epochs (n,) and their places in [0, count) (n,)."""
        if numbers.size and numbers.min() < 0:
            raise ValueError(f"expected sample numbers from 0 on, got {numbers.min()}")
        epochs, offsets = np.divmod(numbers, self.count)
        places = np.empty_like(offsets)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            places[inside] = self._permutation(epoch)[offsets[inside]]
        return epochs, places

    def _permutation(self, epoch: int) -> Integers:
        if self._current[0] != epoch:
            self._current = (epoch, generator(self.seed, "order", epoch).permutation(self.count))
        return self._current[1]
