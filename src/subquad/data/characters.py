"""A vocabulary of characters: each byte is one token, as in HyenaDNA (arXiv 2306.15794, section 3.2: single nucleotides, no k-mers).

Ids of ``Characters.dna()``: [CLS] 0, [SEP] 1, [BOS] 2, [MASK] 3, [PAD] 4, [RESERVED] 5, [UNK] 6, A 7, C 8, G 9, T 10, N 11. A lower-case
letter is read as its capital and any other byte as [UNK]; [UNK] is written as N. So a text and its ids have one length, but what comes
back is in capitals, with N for what is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subquad.data.shuffle import Integers
from subquad.data.windows import Ids, Span
from subquad.parsing import parse_json, read_text

_BEGINNING = 1 << 16  # bytes of a long text that are looked at
TYPE = "characters"  # of its tokenizer.json; those of the package ``tokenizers`` have no type at their top

_DNA = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N")


def reads_characters(tokenizer: Path) -> bool:
    """Whether a file is the tokenizer.json of a vocabulary of characters."""
    try:
        values = parse_json(read_text(tokenizer))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("type") == TYPE


class Characters:
    """A vocabulary of characters, read from the content of its tokenizer.json, with the interface of ``Tokenizer``.

    ``pieces[id]`` is what an id writes. Ids are ``reversible`` as far as bytes can be counted: each stands for one. Raises ``ValueError``
    for other content.
    """

    reversible = True
    special_tokens: tuple[list[int], list[int]] = ([], [])  # none are added to a text

    def __init__(self, content: bytes, name: str = "tokenizer.json") -> None:
        self._content, self.name = content, name
        try:
            values: dict[str, Any] = parse_json(content)
            tokens = [str(token) for token in values["tokens"]]
            unknown, written = tokens.index(str(values["unknown"])), str(values["unknown_as"]).encode()
            self.pieces = [token.encode() if len(token) == 1 else b"" for token in tokens]
            if len(tokens) > 256:
                raise ValueError(f"{len(tokens)} tokens, at most 256 are expected")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{name} is not a vocabulary of characters ({error or type(error).__name__}): restore it from a copy"
            ) from None
        self.vocab, self.unknown = len(tokens), unknown
        self.mask_id = tokens.index("[MASK]") if "[MASK]" in tokens else None
        self.table: npt.NDArray[np.uint8] = np.full(256, unknown, dtype=np.uint8)
        for number, piece in enumerate(self.pieces):
            if piece:
                self.table[[piece.lower()[0], piece.upper()[0]]] = number
        self.pieces[unknown] = written

    @classmethod
    def dna(cls) -> Characters:
        """HyenaDNA's vocabulary of 12."""
        values = {"type": TYPE, "tokens": _DNA, "unknown": "[UNK]", "unknown_as": "N"}
        return cls((json.dumps(values, indent=2) + "\n").encode(), "dna")

    def to_bytes(self) -> bytes:
        """The content of its tokenizer.json."""
        return self._content

    @cached_property
    def byte_lengths(self) -> Integers:
        """How many bytes each id stands for, (vocab,): one for a character, none for the special tokens."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    def encode(self, data: bytes, max_len: int | None = None) -> npt.NDArray[np.uint8]:
        """The ids of a text, (n,), one for each byte; at most ``max_len``, of its beginning. Raises ``ValueError`` as ``expect`` does."""
        self.expect(data, "a text")
        return self.ids(data[:max_len])

    def ids(self, data: bytes) -> npt.NDArray[np.uint8]:
        """The ids of any bytes, (n,)."""
        return self.table[np.frombuffer(data, dtype=np.uint8)]

    def expect(self, data: bytes, name: str) -> None:
        """Raises ``ValueError`` for a text that is not in these characters: most of it is unknown, so its bits would measure nothing."""
        if 2 * np.count_nonzero(self.ids(data) == self.unknown) > len(data):
            letters = b"".join(piece for number, piece in enumerate(self.pieces) if piece and number != self.unknown).decode()
            raise ValueError(
                f"{name} is not in the characters {letters} that this tokenizer reads, it begins {data[:20]!r}: give sequences of these, "
                "or train a model that reads bytes (no data.tokenizer)"
            )

    def decode(self, ids: Sequence[int] | Ids) -> bytes:
        """What ids write, (n,)."""
        return b"".join(map(self.pieces.__getitem__, ids if isinstance(ids, Sequence) else ids.tolist()))

    def stretch(self, span: Span) -> CharacterSpan:
        """The ids of a span, looked up when they are read. Raises ``ValueError`` if it does not begin as ``expect`` says."""
        self.expect(span.read(0, min(span.size, _BEGINNING)).tobytes(), span.document.name)
        return CharacterSpan(span, self.table)


@dataclass(frozen=True, eq=False)
class CharacterSpan:
    """A span of bytes as the ids of its characters."""

    span: Span
    table: npt.NDArray[np.uint8]

    @property
    def size(self) -> int:
        """Its number of characters."""
        return self.span.size

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Ids start..stop-1."""
        return self.table[self.span.read(start, stop)]
