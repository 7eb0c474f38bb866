"""What simple predictors need for a text after reading another, in bits per byte: what a model is to be compared with."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence

import numpy as np

from subquad.data.shuffle import generator
from subquad.data.windows import Ids, Span

_ORDER, _EACH = 6, 64  # of a Markov model at most, and ids that it has read for each of its contexts


def some_text(spans: Sequence[Span], size: int) -> bytes:
    """Whole spans in a random order, always the same, up to ``size`` bytes: all of them where they are smaller."""
    parts: list[bytes] = []
    for number in generator(0, "baseline").permutation(len(spans)).tolist():
        if size <= 0:
            break
        parts.append(spans[number].read(0, min(spans[number].size, size)).tobytes())
        size -= len(parts[-1])
    return b"".join(parts)


def xz_bits(before: bytes, text: bytes) -> float:
    """Of ``xz -9e``, which has read ``before``."""
    first, both = (len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) for data in (before, before + text))
    return 8 * (both - first) / len(text)


def markov_bits(before: Ids, text: Ids) -> tuple[float, int]:
    """Of a Markov model on ids (n,) that are few, with the frequencies of ``before`` and each count one higher; and its order, which is
    as high as there are 64 ids for each context, and at most 6."""
    letters, codes = np.unique(np.concatenate([before, text]), return_inverse=True)
    size = max(len(letters), 2)
    order = max(0, min(_ORDER, int(math.log(max(len(before) / _EACH, 1), size))))
    contexts = np.zeros(len(codes) - order, dtype=np.int64)
    for place in range(order):
        contexts = contexts * size + codes[place : len(codes) - order + place]
    pairs = contexts * size + codes[order:]  # the numbers of an id after the ids before it
    split = len(before) - order
    counts = np.bincount(pairs[:split], minlength=size ** (order + 1)).reshape(-1, size) + 1
    chances = counts / counts.sum(1, keepdims=True)
    return float(-np.log2(chances.flat[pairs[split:]]).mean()), order
