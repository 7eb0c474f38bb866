"""Subword tokens: any tokenizer.json of the package ``tokenizers``.

A model that predicts ids needs a reversible tokenizer, so that a loss in bits can be divided by bytes: such a tokenizer is byte-level, as
GPT-2's, and a text is the concatenation of its tokens' bytes. Where text is only read, any tokenizer can be used, such as BERT's WordPiece,
with the special tokens that it adds to a text. Reading the file needs only the standard library; encoding and training need the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from subquad.data.batching import length_mask
from subquad.data.byte_level import byte_pieces
from subquad.data.characters import TYPE, Characters
from subquad.data.learn_tokens import learn_bpe, learn_wordpiece, package, training_texts
from subquad.data.shuffle import Integers
from subquad.data.utf8 import as_text, is_continuation, naming, span_text
from subquad.data.windows import Ids, Span, Stretch
from subquad.parsing import MAX_TOKENS, parse_json, read_text, shortened

if TYPE_CHECKING:
    import tokenizers

Tokens: TypeAlias = npt.NDArray[np.int32]

_PIECE = 1 << 18
_GROUP = 32  # pieces that the package may encode at the same time
_WORD_END = re.compile(rb".*[A-Za-z](?= )", re.DOTALL)


class Tokenizer:
    """A tokenizer read from the content of a tokenizer.json; ``vocab`` is one more than its largest id.

    ``reversible`` asks for ids that give the text back byte for byte: ``pieces[id]`` then holds the bytes of a token, none for an id
    without one, and no special tokens are added. Otherwise ``pieces`` is empty. Raises ``ValueError`` for content that is not a
    tokenizer.json, and for a tokenizer whose tokens are not strings of bytes where they have to be.
    """

    def __init__(self, content: bytes, name: str = "tokenizer.json", reversible: bool = True) -> None:
        self._content, self.name, self.reversible = content, name, reversible
        try:
            values: dict[str, Any] = parse_json(content)
            vocab = values["model"]["vocab"]
            added = {int(token["id"]): str(token["content"]).encode() for token in values.get("added_tokens") or ()}
            ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
            self.vocab = max([*map(int, ids), *added], default=-1) + 1
            if self.vocab > MAX_TOKENS or min([*map(int, ids), *added], default=0) < 0:
                raise ValueError(f"its ids are not from 0 to {MAX_TOKENS - 1}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = shortened(str(error) or type(error).__name__, 200)
            raise ValueError(f"{name} is not a tokenizer.json ({reason}): expected what `tokenizers` saves") from None
        pieces = byte_pieces(values, name) | added if reversible else {}
        self.pieces = [pieces.get(number, b"") for number in range(self.vocab)] if reversible else []

    @classmethod
    def train(cls, spans: Sequence[Span], vocab: int, kind: Literal["bpe", "wordpiece"] = "bpe") -> Tokenizer:
        """Learns a vocabulary on the text of spans, of which at most ``TRAINING_BYTES`` are read, evenly spread.

        ``bpe`` is byte-level and reversible, ``wordpiece`` is BERT's. The same text gives the same tokenizer, with fewer tokens than
        ``vocab`` where it has no more. ``ValueError`` for too few tokens, and for text that is not UTF-8.
        """
        texts = list(training_texts(spans))
        return cls(learn_bpe(texts, vocab)) if kind == "bpe" else cls(learn_wordpiece(texts, vocab), reversible=False)

    def to_bytes(self) -> bytes:
        """The content of its tokenizer.json."""
        return self._content

    @cached_property
    def byte_lengths(self) -> Integers:
        """How many bytes each id stands for, (vocab,), of a reversible one."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    @cached_property
    def special_tokens(self) -> tuple[list[int], list[int]]:
        """The ids before and after a text."""
        if self.reversible:
            return [], []
        encoding = self._encoder.encode("a")
        text = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
        return encoding.ids[: text[0]], encoding.ids[text[-1] + 1 :]

    @property
    def mask_id(self) -> int | None:
        """The id of [MASK], where there is one and text is read alone."""
        number: int | None = None if self.reversible else self._encoder.token_to_id("[MASK]")
        return number

    def encode(self, data: bytes, max_len: int | None = None) -> Tokens:
        """The ids of a text, (n,), special tokens included; at most ``max_len``, of the beginning of the text.

        Raises ``ValueError`` for data that is not UTF-8, and where the ids of a reversible tokenizer would not give the text back.
        """
        with no_panic(self.name):
            before, after = self.special_tokens
            ids = self._text_ids(data)
        if max_len is not None:
            ids = ids[: max(max_len - len(before) - len(after), 0)]
        return np.concatenate((before, ids, after), dtype=np.int32, casting="unsafe") if before or after else ids

    def decode(self, ids: Sequence[int] | Ids) -> bytes:
        """The text of ids (n,), of a reversible tokenizer the bytes that they stand for."""
        numbers = ids if isinstance(ids, Sequence) else ids.tolist()
        if self.reversible:
            return b"".join(map(self.pieces.__getitem__, numbers))
        return str(self._encoder.decode(numbers)).encode()

    def stretch(self, span: Span) -> Stretch:
        """The ids of a span's text, without special tokens; ``ValueError`` names a document that is not UTF-8.

        Bytes of a character that the span's edge cuts in two are left out.
        """
        with naming(span), no_panic(self.name):
            return TokenSpan(self._text_ids(span_text(span)))

    def _text_ids(self, data: bytes) -> Tokens:
        if not self.reversible:
            return np.array(self._encoder.encode(as_text(data), add_special_tokens=False).ids, dtype=np.int32)
        ids = [np.empty(0, dtype=np.int32)]
        group: list[str] = []
        for start, stop in _cuts(data):  # a long text is encoded piece by piece
            group.append(as_text(data[start:stop], start))
            if len(group) == _GROUP or stop == len(data):
                encodings = self._encoder.encode_batch_fast(group, add_special_tokens=False)
                ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
                group = []
        whole = np.concatenate(ids)
        self._check_same(self.decode(whole), data)
        return whole

    def _check_same(self, decoded: bytes, data: bytes) -> None:
        if decoded == data:
            return
        shorter = min(len(decoded), len(data))
        place = next((place for place in range(shorter) if decoded[place] != data[place]), shorter)
        raise UnicodeError(
            f"the tokenizer {self.name} does not decode to the same text, from byte {place} on: expected one without a normalizer and "
            "without "
            "an added prefix space, such as data.tokenizer=N trains"
        )

    @cached_property
    def _encoder(self) -> tokenizers.Tokenizer:
        """The package's tokenizer. It is never changed, so that threads may share it."""
        lib = package()
        try:
            with no_panic(self.name):
                encoder: tokenizers.Tokenizer = lib.Tokenizer.from_str(self._content.decode())
        except ValueError:
            raise
        except Exception as error:  # the package raises nothing more special
            raise ValueError(f"{self.name} cannot be used as a tokenizer ({shortened(str(error), 200)}): restore it from a copy") from None
        encoder.no_padding()
        encoder.no_truncation()
        return encoder


@contextmanager
def no_panic(name: str) -> Iterator[None]:
    """Makes a panic of the package's Rust code, which is no ``Exception`` in Python, a ``ValueError`` that names the tokenizer."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(
            f"the package tokenizers fails on {name} ({shortened(str(error), 200)}): restore the file from a copy, or use another"
        ) from None


AnyTokenizer: TypeAlias = Tokenizer | Characters


def open_tokenizer(source: str | int | Path, spans: Sequence[Span] = (), reversible: bool = True) -> AnyTokenizer:
    """A tokenizer by what names it: "dna", the path of a tokenizer.json, or a number of tokens, which are learnt on the spans.

    Where the ids need not be ``reversible``, a tokenizer.json of any kind will do, and a WordPiece is trained instead of byte pairs.
    ``ValueError`` for a file that is missing, cannot be read or is not a tokenizer, and as from ``Tokenizer.train``.
    """
    if isinstance(source, int):
        return Tokenizer.train(spans, source, "bpe" if reversible else "wordpiece")
    if source == "dna":
        return Characters.dna()
    try:
        content = read_text(Path(source)).encode()
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {source} ({error.strerror}): expected a tokenizer.json") from None
    except ValueError as error:
        raise ValueError(f"{source} is not a tokenizer.json ({error}): expected what `tokenizers` saves") from None
    return Characters(content, str(source)) if _type_of(content) == TYPE else Tokenizer(content, str(source), reversible)


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


def tokenized(spans: Sequence[Span], tokenizer: AnyTokenizer | None) -> Sequence[Stretch]:
    """What windows are cut from: the spans' tokens without special ones, or the spans themselves without a tokenizer."""
    return spans if tokenizer is None else [tokenizer.stretch(span) for span in spans]


def count_bytes(ids: Ids, lengths: Integers, span: tuple[int, int], tokenizer: AnyTokenizer | None) -> int:
    """How many bytes the ids of windows (B, T) stand for, at the positions of a span that lie inside the windows' lengths (B,).

    The tokenizer has to be reversible.
    """
    ends = lengths.clip(*span)
    if tokenizer is None:
        return int((ends - span[0]).sum())
    inside = length_mask(ends - span[0], span[1] - span[0])
    return int(tokenizer.byte_lengths[ids[:, slice(*span)][inside]].sum())


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
            while stop > start + 1 and is_continuation(data[stop]):
                stop -= 1
        yield start, stop
        start = stop


def _type_of(content: bytes) -> Any:
    """The type that a tokenizer.json gives itself at its top; None for what is not a JSON object."""
    try:
        values = parse_json(content)
    except ValueError:
        return None
    return values.get("type") if isinstance(values, dict) else None
