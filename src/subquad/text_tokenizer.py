"""What a model asks of its tokenizer."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class TextTokenizer(Protocol):
    """What a token model reads text with. Where its ids give the text back, ``pieces[id]`` holds the bytes of a token and ``byte_lengths``
    (vocab,) their numbers."""

    vocab: int
    pieces: list[bytes]

    @property
    def byte_lengths(self) -> npt.NDArray[np.int64]: ...

    def encode(self, data: bytes, max_len: int | None = None) -> npt.NDArray[np.integer[Any]]: ...

    def to_bytes(self) -> bytes: ...
