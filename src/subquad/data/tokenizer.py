"""Subword tokens: text to ids and back without loss, and how many bytes each id stands for.

A tokenizer here is a ``tokenizer.json`` of the package ``tokenizers`` whose tokens are strings of bytes (byte-level, as in GPT-2), so a
text is its tokens' bytes one after another, and a loss in bits can be shared out over bytes. Reading the file needs only the standard
library; encoding and training need the package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from subquad.data.characters import TYPE, Characters, CharacterSpan
from subquad.data.shuffle import Integers
from subquad.data.windows import Ids, Span, Stretch

if TYPE_CHECKING:
    import tokenizers

TRAINING_BYTES = 1 << 25  # what a vocabulary is learnt from, at most: counts of pairs hardly change beyond
Tokens: TypeAlias = npt.NDArray[np.int32]

_PIECE = 1 << 18
_GROUP = 32  # pieces that the package may encode at the same time
_WORD_END = re.compile(rb".*[A-Za-z](?= )", re.DOTALL)
HINT = "token models need the package tokenizers: pip install 'subquad[tokens]'"


def _byte_of_character() -> dict[str, int]:
    """GPT-2's spelling of bytes in tokens: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()


class Tokenizer:
    """A byte-level tokenizer, read from the content of a tokenizer.json.

    ``vocab`` is one more than its largest id; ``pieces[id]`` holds the bytes of a token, none for an id without one. Raises
    ``ValueError`` for content that is no tokenizer.json, and for a tokenizer whose tokens are not strings of bytes.
    """

    def __init__(self, content: bytes, name: str = "tokenizer.json") -> None:
        self._content, self.name = content, name
        tokens = _tokens(content, name)
        self.vocab = max(tokens, default=-1) + 1
        self.pieces = [tokens.get(number, b"") for number in range(self.vocab)]

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a tokenizer.json that ``tokenizers`` saved; ``ValueError`` also for one that is missing or of another kind."""
        found = read_tokenizer(path)
        if not isinstance(found, cls):
            raise ValueError(f"{path} is a vocabulary of characters: expected a tokenizer.json that `tokenizers` saved")
        return found

    @classmethod
    def train(cls, spans: Sequence[Span], vocab: int) -> Tokenizer:
        """Learns byte pairs on the text of spans, of which at most ``TRAINING_BYTES`` are read, evenly spread.

        GPT-2's way: words with the space before them, all 256 bytes to begin with, no special tokens; the same text gives the same
        tokenizer. It has fewer tokens than ``vocab`` where the text has no more pairs. ``ValueError`` for fewer than 256 tokens, and for
        text that is not UTF-8.
        """
        if vocab < 256:
            raise ValueError(f"a byte-level tokenizer has at least 256 tokens, one for each byte, got {vocab}: raise it")
        try:
            from tokenizers import Tokenizer as Encoder
            from tokenizers import decoders, models, pre_tokenizers, trainers
        except ImportError as error:
            raise ValueError(HINT) from error
        encoder = Encoder(models.BPE())
        encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        encoder.decoder = decoders.ByteLevel()
        learner = trainers.BpeTrainer(
            vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
        )
        encoder.train_from_iterator(training_texts(spans), learner)
        return cls(encoder.to_str().encode())

    def to_bytes(self) -> bytes:
        """The content of its tokenizer.json."""
        return self._content

    @cached_property
    def byte_lengths(self) -> Integers:
        """How many bytes each id stands for, (vocab,)."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    def encode(self, data: bytes) -> Tokens:
        """The ids of a text, (n,); no special tokens are added.

        A text of many pieces is encoded piece by piece, cut where a word ends. Raises ``ValueError`` for data that is not UTF-8, and where
        the ids would not give the text back.
        """
        found: list[Tokens] = [np.empty(0, dtype=np.int32)]
        group: list[str] = []
        for start, stop in _cuts(data):
            group.append(as_text(data[start:stop], start))
            if len(group) == _GROUP or stop == len(data):
                found += [np.array(one.ids, dtype=np.int32) for one in self._encoder.encode_batch_fast(group, add_special_tokens=False)]
                group = []
        ids = np.concatenate(found)
        self._check_same(self.decode(ids), data)
        return ids

    def decode(self, ids: Sequence[int] | Ids) -> bytes:
        """The bytes that ids stand for, (n,)."""
        return b"".join(map(self.pieces.__getitem__, ids if isinstance(ids, Sequence) else ids.tolist()))

    def _check_same(self, decoded: bytes, data: bytes) -> None:
        if decoded == data:
            return
        at = next((at for at, (one, other) in enumerate(zip(decoded, data, strict=False)) if one != other), min(len(decoded), len(data)))
        raise _WrongText(
            f"the tokenizer {self.name} does not give the text back, from byte {at} on: expected one without a normalizer and without an "
            "added prefix space, such as data.tokenizer=N trains"
        )

    @cached_property
    def _encoder(self) -> tokenizers.Tokenizer:
        return open_encoder(self._content)


def open_encoder(content: bytes) -> tokenizers.Tokenizer:
    """The package's tokenizer for the content of a tokenizer.json, without padding or truncation. ``ValueError`` without the package."""
    try:
        from tokenizers import Tokenizer as Encoder
    except ImportError as error:
        raise ValueError(HINT) from error
    encoder = Encoder.from_str(content.decode())
    encoder.no_padding()
    encoder.no_truncation()
    return encoder


@dataclass(frozen=True, eq=False)
class TokenSpan:
    """The tokens of one span of text, held in memory."""

    ids: Tokens

    @property
    def size(self) -> int:
        """Its number of tokens."""
        return self.ids.size

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens start..stop-1."""
        return self.ids[start:stop]


Codec: TypeAlias = Tokenizer | Characters


def tokenized(spans: Sequence[Span], tokenizer: Codec | None) -> Sequence[Stretch]:
    """What windows are cut from: the spans' tokens, or the spans themselves without a tokenizer.

    ``ValueError`` names a document that is not UTF-8. Bytes of a character that a span's edge cuts in two are left out.
    """
    if tokenizer is None:
        return spans
    if isinstance(tokenizer, Characters):
        return [CharacterSpan(span, tokenizer.table) for span in spans]
    found = []
    for span in spans:
        with naming(span):
            found.append(TokenSpan(tokenizer.encode(span_text(span))))
    return found


def span_text(span: Span, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes start..stop-1 of a span as text: where a cut inside the document goes through a character, it moves to the nearest edge within.

    So at most 3 bytes at each end are left out, and count as not there. The document's own ends stay.
    """
    stop = span.size if stop is None else stop
    data = span.read(start, stop).tobytes()
    first, last = 0, len(data)
    if span.start + start > 0:
        while first < min(3, last) and _continues(data[first]):
            first += 1
    if span.start + stop < span.document.size:
        back = next((back for back in range(1, min(3, last - first) + 1) if not _continues(data[-back])), 0)
        if back and _character_size(data[-back]) > back:
            last -= back
    return data[first:last]


def count_bytes(ids: Ids, lengths: Integers, span: tuple[int, int], tokenizer: Codec | None) -> int:
    """How many bytes the ids of windows (B, T) stand for, at the positions of a span that lie inside the windows' lengths (B,)."""
    ends = lengths.clip(*span)
    if tokenizer is None:
        return int((ends - span[0]).sum())
    inside = np.arange(*span) < ends[:, None]
    return int(tokenizer.byte_lengths[ids[:, slice(*span)][inside]].sum())


def open_tokenizer(asked: str | int, spans: Sequence[Span]) -> Codec:
    """The tokenizer that is asked for: "dna", the path of a tokenizer.json, or a number of tokens, which are learnt on the spans.

    ``ValueError`` as from :func:`read_tokenizer` and ``Tokenizer.train``.
    """
    if isinstance(asked, int):
        return Tokenizer.train(spans, asked)
    return Characters.dna() if asked == "dna" else read_tokenizer(asked)


def read_tokenizer(path: str | Path) -> Codec:
    """The tokenizer of a tokenizer.json of either kind; ``ValueError`` for one that is missing, cannot be read or is no tokenizer."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {path} ({error.strerror}): expected a tokenizer.json") from None
    return Characters(content, str(path)) if type_of(content) == TYPE else Tokenizer(content, str(path))


def type_of(content: bytes) -> Any:
    """The type that a tokenizer.json gives itself at its top; None for what is no JSON object."""
    try:
        values = json.loads(content)
    except ValueError:
        return None
    return values.get("type") if isinstance(values, dict) else None


class _WrongText(ValueError):
    """Data that a tokenizer cannot take."""


@contextmanager
def naming(span: Span) -> Iterator[None]:
    """Puts the document's name before a sentence about its text."""
    try:
        yield
    except _WrongText as error:
        raise ValueError(f"{span.document.name}: {error}") from None


def as_text(data: bytes, offset: int = 0) -> str:
    """Bytes as UTF-8; ``ValueError`` says which byte is none, ``offset`` is that of the first."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _WrongText(f"byte {offset + error.start} is no UTF-8, and token models read text: use a byte model for such data") from None


def training_texts(spans: Sequence[Span]) -> Iterator[str]:
    """One of every so many pieces of the spans, so that all parts of a large corpus are read alike."""
    every = max(1, -(-sum(span.size for span in spans) // TRAINING_BYTES))
    number = 0
    for span in spans:
        for start in range(0, span.size, _PIECE):
            if number % every == 0:
                with naming(span):
                    yield as_text(span_text(span, start, min(start + _PIECE, span.size)), start)
            number += 1


def _cuts(data: bytes) -> Iterator[tuple[int, int]]:
    """Where pieces of a text begin and end: before a space after a letter, which tokens do not join, or else between characters."""
    start = 0
    while start < len(data):
        stop = start + _PIECE
        if stop >= len(data):
            stop = len(data)
        elif word := _WORD_END.match(data, start, stop):
            stop = word.end()
        else:
            while stop > start + 1 and _continues(data[stop]):
                stop -= 1
        yield start, stop
        start = stop


def _continues(byte: int) -> bool:
    """Whether it is a byte of a character after its first."""
    return byte & 0xC0 == 0x80


def _character_size(first: int) -> int:
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _tokens(content: bytes, name: str) -> dict[int, bytes]:
    """The bytes of each id of a tokenizer.json."""
    try:
        values: dict[str, Any] = json.loads(content)
        vocab = values["model"]["vocab"]
        added = {int(token["id"]): str(token["content"]).encode() for token in values.get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name} is no tokenizer.json ({error or type(error).__name__}): expected what `tokenizers` saves") from None
    if not isinstance(vocab, dict) or not (_is_byte_level(values.get("pre_tokenizer")) or _is_byte_level(values.get("normalizer"))):
        kind = values["model"].get("type", "unknown")
        raise ValueError(
            f"{name} is not byte-level (it is of type {kind}), so its tokens are no strings of bytes: "
            "expected a byte-level BPE such as GPT-2's, or let data.tokenizer=N train one"
        )
    try:
        return {int(number): bytes(map(_BYTE_OF.__getitem__, token)) for token, number in vocab.items() if number not in added} | added
    except KeyError as error:
        raise ValueError(f"{name} is not byte-level: {error} in a token stands for no byte, expected GPT-2's spelling of bytes") from None


def _is_byte_level(part: Any) -> bool:
    """Whether a part of a tokenizer.json is ByteLevel or a sequence that holds it."""
    if isinstance(part, dict):
        inner = [*(part.get("pretokenizers") or ()), *(part.get("normalizers") or ())]
        return part.get("type") == "ByteLevel" or any(map(_is_byte_level, inner))
    return False
