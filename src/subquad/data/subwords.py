"""Tokenizers for reading alone: any tokenizer.json of the package ``tokenizers``, such as BERT's WordPiece, whose ids need not give the
text back, with the special tokens that it puts around a text ([CLS] and [SEP] in BERT's).

One that is trained here is BERT's: lower case without accents, words cut at spaces and punctuation, WordPiece.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from subquad.data.characters import TYPE, Characters
from subquad.data.tokenizer import (
    HINT,
    Codec,
    TokenSpan,
    as_text,
    naming,
    open_encoder,
    open_tokenizer,
    span_text,
    tokenized,
    training_texts,
    type_of,
)
from subquad.data.windows import Ids, Span, Stretch

if TYPE_CHECKING:
    import tokenizers

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


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

    @classmethod
    def train(cls, spans: Sequence[Span], vocab: int) -> Subwords:
        """Learns a WordPiece of ``vocab`` tokens on the text of spans, of which some megabytes are read, evenly spread.

        It has fewer tokens where the text has no more. ``ValueError`` for text that is not UTF-8, and for too few tokens.
        """
        if vocab < 64:
            raise ValueError(f"a WordPiece tokenizer needs at least 64 tokens for letters and special tokens, got {vocab}: give more")
        try:
            from tokenizers import Tokenizer as Encoder
            from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
        except ImportError as error:
            raise ValueError(HINT) from error
        encoder = Encoder(models.WordPiece(unk_token="[UNK]"))
        encoder.normalizer = normalizers.BertNormalizer(lowercase=True)
        encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        encoder.decoder = decoders.WordPiece()
        learner = trainers.WordPieceTrainer(
            vocab_size=vocab, special_tokens=list(_SPECIAL), limit_alphabet=max(32, vocab // 4), show_progress=False
        )
        encoder.train_from_iterator(training_texts(spans), learner)
        encoder.post_processor = processors.BertProcessing(("[SEP]", _SPECIAL.index("[SEP]")), ("[CLS]", _SPECIAL.index("[CLS]")))
        return cls(encoder.to_str().encode())

    def to_bytes(self) -> bytes:
        """The content of its tokenizer.json."""
        return self._content

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        encoding = self._encoder.encode("a")
        inner = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
        return encoding.ids[: inner[0]], encoding.ids[inner[-1] + 1 :]

    @property
    def blank(self) -> int | None:
        """The id of [MASK], where there is one."""
        found: int | None = self._encoder.token_to_id("[MASK]")
        return found

    def content(self, span: Span) -> TokenSpan:
        """The ids of a span's text without special tokens; ``ValueError`` names a document that is not UTF-8."""
        with naming(span):
            text = as_text(span_text(span))
        self._encoder.no_truncation()
        return TokenSpan(np.array(self._encoder.encode(text, add_special_tokens=False).ids, dtype=np.int32))

    def encode(self, data: bytes, limit: int | None = None) -> npt.NDArray[np.int32]:
        """The ids of a text, (n,), special tokens included; with ``limit`` at most so many, of the beginning of the text.

        Raises ``ValueError`` for data that is not UTF-8.
        """
        text = as_text(data)
        if limit is None:
            self._encoder.no_truncation()
        else:
            self._encoder.enable_truncation(limit)
        return np.array(self._encoder.encode(text).ids, dtype=np.int32)

    @cached_property
    def _encoder(self) -> tokenizers.Tokenizer:
        return open_encoder(self._content)


def read_subwords(path: str | Path) -> Subwords | Characters:
    """The tokenizer of a tokenizer.json of any kind; ``ValueError`` for one that is missing, cannot be read or is no tokenizer."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {path} ({error.strerror}): expected a tokenizer.json") from None
    return Characters(content, str(path)) if type_of(content) == TYPE else Subwords(content, str(path))


Reader: TypeAlias = Codec | Subwords


def open_reader(asked: str | int, spans: Sequence[Span]) -> Reader:
    """The tokenizer that is asked for where no text has to come back: "dna", the path of a tokenizer.json of any kind, or a number of
    tokens, of which a WordPiece is learnt on the spans. ``ValueError`` as from ``read_subwords`` and ``Subwords.train``."""
    if isinstance(asked, int):
        return Subwords.train(spans, asked)
    return open_tokenizer(asked, spans) if asked == "dna" else read_subwords(asked)


class TextReader(Protocol):
    """What turns text into ids."""

    def encode(self, data: bytes) -> npt.NDArray[np.integer[Any]]: ...


def text_ids(text: bytes, reader: TextReader | None, limit: int | None = None) -> Ids:
    """The ids of a whole text, (n,), its bytes without a reader; with ``limit`` at most so many, of its beginning."""
    ids: Ids = np.frombuffer(text, dtype=np.uint8) if reader is None else reader.encode(text)
    if limit is None or len(ids) <= limit:
        return ids
    return reader.encode(text, limit) if isinstance(reader, Subwords) else ids[:limit]  # a subword reader keeps its special tokens


def stretches(spans: Sequence[Span], reader: Reader | None) -> Sequence[Stretch]:
    """What windows are cut from, as ``tokenized`` gives it, without special tokens."""
    return [reader.content(span) for span in spans] if isinstance(reader, Subwords) else tokenized(spans, reader)
