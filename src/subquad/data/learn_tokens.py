"""Vocabularies learnt on text by the package ``tokenizers``: byte pairs as GPT-2's, word pieces as BERT's."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from subquad.data.utf8 import as_text, naming, span_text
from subquad.data.windows import Span

TRAINING_BYTES = 1 << 25  # what a vocabulary is learnt from, at most: counts of pairs hardly change beyond

_PIECE = 1 << 18
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def package() -> Any:
    """The package ``tokenizers``. Raises ``ValueError`` where it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError("token models need the package tokenizers: pip install 'subquad[tokens]'") from error
    return tokenizers


def learn_bpe(texts: Sequence[str], vocab: int) -> bytes:
    """The tokenizer.json of a byte-level BPE: words with the space before them, all 256 bytes to begin with, no special tokens."""
    if vocab < 256:
        raise ValueError(f"a byte-level tokenizer has at least 256 tokens, one for each byte, got {vocab}: raise it")
    lib = package()
    encoder = lib.Tokenizer(lib.models.BPE())
    encoder.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = lib.decoders.ByteLevel()
    alphabet = lib.pre_tokenizers.ByteLevel.alphabet()
    trainer = lib.trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    encoder.train_from_iterator(texts, trainer)
    return str(encoder.to_str()).encode()


def learn_wordpiece(texts: Sequence[str], vocab: int) -> bytes:
    """The tokenizer.json of BERT's WordPiece: lower case without accents, words cut at spaces and punctuation.

    The package numbers letters in the random order of a hash map, and numbers decide between pairs of one count. So the letters are
    found first and given to it in a fixed order: the same text gives the same tokenizer.
    """
    if vocab < 64:
        raise ValueError(f"a WordPiece tokenizer needs at least 64 tokens for letters and special tokens, got {vocab}: raise it")
    small = _train_wordpiece(texts, 0, _SPECIAL)
    counts = Counter[str]()
    for text in texts:
        counts.update(small.normalizer.normalize_str(text))
    most = min(max(32, vocab // 4), (vocab - len(_SPECIAL)) // 2)
    frequent = sorted((letter for letter in counts if small.token_to_id(letter) is not None), key=lambda letter: (-counts[letter], letter))
    letters = sorted(frequent[:most])
    inner = [f"##{letter}" for letter in letters if small.token_to_id(f"##{letter}") is not None]
    learnt = _train_wordpiece(texts, vocab, [*_SPECIAL, *letters, *inner], most)
    encoder = _wordpiece(learnt.get_vocab(with_added_tokens=False))
    encoder.add_special_tokens(_SPECIAL)
    special = {token: _SPECIAL.index(token) for token in ("[SEP]", "[CLS]")}
    encoder.post_processor = package().processors.BertProcessing(*special.items())
    return str(encoder.to_str()).encode()


def training_texts(spans: Sequence[Span]) -> Iterator[str]:
    """Every n-th piece of the spans, ``TRAINING_BYTES`` at most, so that all parts of a large corpus are read alike."""
    every = max(1, -(-sum(span.size for span in spans) // TRAINING_BYTES))
    number = 0
    for span in spans:
        for start in range(0, span.size, _PIECE):
            if number % every == 0:
                with naming(span):
                    yield as_text(span_text(span, start, min(start + _PIECE, span.size)), start)
            number += 1


def _train_wordpiece(texts: Sequence[str], vocab: int, first_tokens: Sequence[str], letters: int = sys.maxunicode) -> Any:
    encoder = _wordpiece({})
    initial = [token for token in first_tokens if len(token) == 1]
    trainer = package().trainers.WordPieceTrainer(
        vocab_size=vocab, special_tokens=list(first_tokens), initial_alphabet=initial, limit_alphabet=letters, show_progress=False
    )
    encoder.train_from_iterator(texts, trainer)
    return encoder


def _wordpiece(vocab: dict[str, int]) -> Any:
    lib = package()
    encoder = lib.Tokenizer(lib.models.WordPiece(vocab, unk_token="[UNK]"))
    encoder.normalizer = lib.normalizers.BertNormalizer(lowercase=True)
    encoder.pre_tokenizer = lib.pre_tokenizers.BertPreTokenizer()
    encoder.decoder = lib.decoders.WordPiece()
    return encoder
