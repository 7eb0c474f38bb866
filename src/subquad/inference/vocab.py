"""The bytes that the ids of a model stand for, one byte or those of a token; and which ids may come next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from subquad.inference.utf8 import Utf8State, advance, allowed
from subquad.text_tokenizer import TextTokenizer

Mask = npt.NDArray[np.bool_]


class Vocab:
    """The ids of a model with V = ``size`` ids; without a tokenizer they are bytes. ``pieces[id]`` is what an id writes."""

    def __init__(self, size: int, tokenizer: TextTokenizer | None) -> None:
        self.size = size
        self._tokenizer = tokenizer
        self.pieces = [bytes([byte]) for byte in range(size)] if tokenizer is None else tokenizer.pieces
        self._lengths = self._padded([len(piece) for piece in self.pieces], 0)  # (V,), bytes
        self._needed_after: dict[Utf8State, npt.NDArray[np.int64]] = {}

    def encode(self, text: bytes) -> list[int]:
        """The ids of a text; raises ``ValueError`` for one that the tokenizer cannot encode."""
        return list(text) if self._tokenizer is None else [int(id_) for id_ in self._tokenizer.encode(text)]

    def nonempty(self) -> Mask | None:
        """The ids ``(V,)`` that write something, None when all do: a model may have more ids than its tokenizer."""
        return None if self._lengths.all() else self._lengths > 0

    def valid_utf8(self, state: Utf8State, remaining: int) -> Mask:
        """The ids ``(V,)`` that keep the text valid UTF-8 and let its last character end within ``remaining`` bytes more."""
        if self._tokenizer is None:
            return allowed(state, remaining)
        if state not in self._needed_after:
            self._needed_after[state] = self._padded([_needed_after(state, piece) for piece in self.pieces], -1)
        needed = self._needed_after[state]
        return (needed >= 0) & (self._lengths + needed <= remaining)

    def _padded(self, numbers: list[int], fill: int) -> npt.NDArray[np.int64]:
        return np.array(numbers + [fill] * (self.size - len(numbers)), dtype=np.int64)


def _needed_after(state: Utf8State, piece: bytes) -> int:
    """The bytes that the open character needs after a piece; -1 where the piece is empty or makes the text invalid."""
    if not piece:
        return -1
    for byte in piece:
        following = advance(state, byte)
        if following is None:
            return -1
        state = following
    return state.needed
