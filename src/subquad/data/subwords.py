"""Tokenizers for reading alone: any tokenizer.json of the package ``tokenizers``, such as BERT's WordPiece, whose ids need not give the
text back, with the special tokens that it puts around a text ([CLS] and [SEP] in BERT's)."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from subquad.data.characters import TYPE, Characters
from subquad.data.tokenizer import HINT, type_of

if TYPE_CHECKING:
    import tokenizers


class Subwords:
    """A tokenizer read from the content of a tokenizer.json; ``vocab`` is one more than its largest id.

    Raises ``ValueError`` for content that is no tokenizer.json.
    """

    def __init__(self, content: bytes, name: str = "tokenizer.json") -> None:
        self._content, self.name = content, name
        try:
            values = json.loads(content)
            vocab = values["model"]["vocab"]
            ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
            self.vocab = max([*ids, *(token["id"] for token in values.get("added_tokens") or ())]) + 1
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{name} is no tokenizer.json ({error or type(error).__name__}): expected what `tokenizers` saves") from None

    def to_bytes(self) -> bytes:
        """The content of its tokenizer.json."""
        return self._content

    def encode(self, data: bytes, limit: int | None = None) -> npt.NDArray[np.int32]:
        """The ids of a text, (n,), special tokens included; with ``limit`` at most so many, of the beginning of the text.

        Raises ``ValueError`` for data that is not UTF-8.
        """
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"byte {error.start} is no UTF-8, and token models read text: use a byte model for such data") from None
        if limit is None:
            self._encoder.no_truncation()
        else:
            self._encoder.enable_truncation(limit)
        return np.array(self._encoder.encode(text).ids, dtype=np.int32)

    @cached_property
    def _encoder(self) -> tokenizers.Tokenizer:
        try:
            from tokenizers import Tokenizer as Encoder
        except ImportError as error:
            raise ValueError(HINT) from error
        encoder = Encoder.from_str(self._content.decode())
        encoder.no_padding()
        return encoder


def read_subwords(path: str | Path) -> Subwords | Characters:
    """The tokenizer of a tokenizer.json of any kind; ``ValueError`` for one that is missing, cannot be read or is no tokenizer."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {path} ({error.strerror}): expected a tokenizer.json") from None
    return Characters(content, str(path)) if type_of(content) == TYPE else Subwords(content, str(path))
