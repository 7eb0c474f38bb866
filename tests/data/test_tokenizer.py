"""Tokenizers: nothing is lost, every byte is counted once, and what is not text for them is refused."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.data import learn_tokens
from subquad.data import tokenizer as module
from subquad.data.corpus import Corpus
from subquad.data.documents import Document
from subquad.data.tokenizer import Tokenizer, count_bytes, open_tokenizer, tokenized
from subquad.data.utf8 import span_text
from subquad.data.windows import Span, Windows

TEXT = ("It was the best of times, it was the worst of times; déjà vu, naïve, 漢字 and 🙂🙂.\n" * 40).encode()


class Memory:
    def __init__(self, data: bytes) -> None:
        self.data = np.frombuffer(data, np.uint8)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.data[start:stop]


def span(data: bytes, start: int = 0, stop: int | None = None, name: str = "text") -> Span:
    return Span(Document(name, len(data), Memory(data)), start, len(data) if stop is None else stop)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([span(TEXT)], 300)


def test_the_same_text_gives_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.vocab == 300
    assert Tokenizer.train([span(TEXT)], 300).to_bytes() == tokenizer.to_bytes()
    assert sorted(piece for piece in tokenizer.pieces if len(piece) == 1) == [bytes([byte]) for byte in range(256)]
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    again = open_tokenizer(tmp_path / "tokenizer.json")
    assert again.pieces == tokenizer.pieces and np.array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
    assert open_tokenizer(str(tmp_path / "tokenizer.json")).pieces == open_tokenizer(300, [span(TEXT)]).pieces


def test_the_same_text_gives_the_same_word_pieces() -> None:
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghijé漢€"), random.integers(2, 7))) for _ in range(200)]
    text = " ".join(random.choice(words, 3000).tolist()).encode()
    first, again = (Tokenizer.train([span(text)], size, "wordpiece") for size in (200, 200))
    assert first.to_bytes() == again.to_bytes() and first.vocab == 200
    few = Tokenizer.train([span(bytes(range(33, 127)) * 2 + TEXT)], 64, "wordpiece")
    assert few.vocab <= 64 and few.mask_id == 4


def test_training_reads_only_its_spans_and_stops_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = TEXT + b"zqzqzq zqzqzq " * 500
    assert Tokenizer.train([span(held_out, 0, len(TEXT))], 300).to_bytes() == Tokenizer.train([span(TEXT)], 300).to_bytes()
    monkeypatch.setattr(learn_tokens, "_PIECE", 100)
    monkeypatch.setattr(learn_tokens, "TRAINING_BYTES", 1000)
    read = [piece.encode() for piece in learn_tokens.training_texts([span(TEXT), span(TEXT[:50]), span(TEXT)])]
    assert sum(map(len, read)) <= 1000 and len(read) >= 8 and all(piece in TEXT for piece in read)


@given(st.text())
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    data = text.encode("utf-8", "ignore")
    ids = tokenizer.encode(data)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == data == tokenizer.decode(ids.tolist())
    assert tokenizer.byte_lengths[ids].sum() == len(data)


def test_long_texts_are_encoded_piece_by_piece_as_at_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [TEXT, b"  two  spaces\n\n and 'll don't   \n " * 30, "漢字".encode() * 50, b"x" * 300]
    whole = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(module, "_PIECE", 64)
    monkeypatch.setattr(module, "_GROUP", 3)
    for text, ids in zip(texts, whole, strict=True):
        cuts = list(module._cuts(text))
        assert [0, *(stop for _, stop in cuts)] == [*(start for start, _ in cuts), len(text)] and len(cuts) > 2
        assert all(stop - start <= 64 for start, stop in cuts)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        if b" " in text:
            assert np.array_equal(tokenizer.encode(text), ids)


def test_a_cut_inside_a_character_moves_to_its_edge() -> None:
    text = "aé漢🙂b".encode()
    for start in range(len(text) + 1):
        for stop in range(start, len(text) + 1):
            found = span_text(span(text, start, stop))
            assert found == text[start:stop].decode("utf-8", "ignore").encode()
            assert span_text(span(text), start, stop) == found
    # The document's own ends are not mended.
    assert span_text(span(text[:-2])) == text[:-2] and span_text(span(text[2:])) == text[2:]


def test_windows_of_tokens(tokenizer: Tokenizer) -> None:
    texts = [TEXT[:1000], "é".encode() * 7, b"and more of it"]
    spans = [span(text, name=str(number)) for number, text in enumerate(texts)]
    assert tokenized(spans, None) is spans
    ids, lengths = Windows(tokenized(spans, tokenizer), 16, seed=0).in_order()
    assert ids.dtype == np.int32
    assert b"".join(tokenizer.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)) == b"".join(texts)
    assert count_bytes(ids, lengths, (0, 16), tokenizer) == sum(map(len, texts))
    inside = [len(tokenizer.decode(row[3 : max(3, min(length, 9))])) for row, length in zip(ids, lengths, strict=True)]
    assert count_bytes(ids, lengths, (3, 9), tokenizer) == sum(inside)
    assert count_bytes(ids, lengths, (3, 9), None) == sum(max(0, min(length, 9) - 3) for length in lengths)
    packed = Windows(tokenized(spans, tokenizer), 10**6, seed=0, pack=True)
    (row,), _ = packed.batch(0, 1)
    assert row.dtype == np.int32 and tokenizer.decode(row[: packed.bytes]) == b"".join(texts)


def test_both_parts_of_a_cut_document_are_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(("é漢🙂" * 333).encode())
    split = Corpus.open([tmp_path / "text"]).split((0.5, 0.25, 0.25), by="range")
    for part in (split.train, split.valid, split.test):
        (tokens,), (one,) = tokenized(part, tokenizer), part
        assert one.size - 6 <= len(tokenizer.decode(tokens.read(0, tokens.size))) <= one.size


def changed(tokenizer: Tokenizer, changes: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(tokenizer.to_bytes()) | changes).encode()


def test_tokenizers_made_elsewhere(tokenizer: Tokenizer) -> None:
    """A special token is the text that it is written as, an id without a token has no bytes, and other byte-level set-ups are read."""
    special = {"id": 300, "content": "<é>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    part = {"type": "Sequence", "pretokenizers": [json.loads(tokenizer.to_bytes())["pre_tokenizer"]]}
    cut = {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}}
    other = Tokenizer(changed(tokenizer, {"added_tokens": [special], "pre_tokenizer": part, **cut}))
    ids = other.encode("It was <é> the best".encode())
    assert other.vocab == 301 and 300 in ids and other.decode(ids) == "It was <é> the best".encode()
    model = json.loads(tokenizer.to_bytes())["model"]
    holes = Tokenizer(changed(tokenizer, {"model": model | {"vocab": model["vocab"] | {"ĠĠ": 305}}}))
    assert holes.vocab == 306 and holes.byte_lengths[300:].tolist() == [0] * 5 + [2] and holes.pieces[305] == b"  "


def test_wrong_tokenizers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    values = json.loads(tokenizer.to_bytes())
    wrong = {
        "is not a tokenizer.json": [b"{", b"[]", b'{"model": {}}'],
        "not byte-level": [
            changed(tokenizer, {"pre_tokenizer": {"type": "Whitespace"}}),
            changed(tokenizer, {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}),
            changed(tokenizer, {"model": values["model"] | {"vocab": {"a b": 0}}}),
        ],
    }
    for message, contents in wrong.items():
        for content in contents:
            with pytest.raises(ValueError, match=message):
                Tokenizer(content)
    with pytest.raises(ValueError, match="cannot read the tokenizer"):
        open_tokenizer(tmp_path / "none.json")
    with pytest.raises(ValueError, match="at least 256 tokens"):
        Tokenizer.train([span(TEXT)], 255)


def test_a_tokenizer_that_loses_something_is_refused(tokenizer: Tokenizer) -> None:
    part = json.loads(tokenizer.to_bytes())["pre_tokenizer"]
    prefixing = Tokenizer(changed(tokenizer, {"pre_tokenizer": part | {"add_prefix_space": True}}))
    lowering = Tokenizer(changed(tokenizer, {"normalizer": {"type": "Lowercase"}}))
    for other, at in [(prefixing, 0), (lowering, 3)]:
        with pytest.raises(ValueError, match=f"does not decode to the same text, from byte {at} on"):
            other.encode(b"so It was")


def test_what_is_not_utf8_is_refused_with_its_name(tokenizer: Tokenizer) -> None:
    bad = TEXT + b"\xff"
    with pytest.raises(ValueError, match=f"byte {len(TEXT)} is not UTF-8.*byte model"):
        tokenizer.encode(bad)
    spans = [span(bad, name="firmware.bin")]
    for work in (lambda: tokenized(spans, tokenizer), lambda: Tokenizer.train(spans, 300)):
        with pytest.raises(ValueError, match=f"firmware.bin: byte {len(TEXT)} is not UTF-8"):
            work()


def test_without_the_package_it_says_what_to_install(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    read = Tokenizer(tokenizer.to_bytes())
    assert read.decode([1, 2]) == tokenizer.decode([1, 2])  # reading needs no package
    for work in (lambda: read.encode(b"text"), lambda: Tokenizer.train([span(TEXT)], 300)):
        with pytest.raises(ValueError, match=r"pip install 'subquad\[tokens\]'"):
            work()


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return Tokenizer.train([span(TEXT)], 100, "wordpiece")


def test_a_wordpiece_reads_text_between_its_special_tokens(wordpiece: Tokenizer) -> None:
    assert wordpiece.vocab <= 100 and wordpiece.mask_id == 4 and wordpiece.special_tokens == ([2], [3]) and not wordpiece.pieces
    ids = wordpiece.encode(b"It was the TIMES")
    assert ids.dtype == np.int32 and ids[0] == 2 and ids[-1] == 3 and wordpiece.decode(ids) == b"it was the times"
    stretch = wordpiece.stretch(span(b"It was the TIMES"))
    assert np.array_equal(stretch.read(0, stretch.size), ids[1:-1])
    assert wordpiece.encode(b"").tolist() == [2, 3]
    with pytest.raises(ValueError, match="at least 64 tokens"):
        Tokenizer.train([span(TEXT)], 63, "wordpiece")


@pytest.mark.parametrize("max_len", [2, 3, 7, 20, 10**6])
def test_truncation_is_that_of_the_package(wordpiece: Tokenizer, max_len: int) -> None:
    package = pytest.importorskip("tokenizers").Tokenizer.from_str(wordpiece.to_bytes().decode())
    package.enable_truncation(max_len)
    assert wordpiece.encode(TEXT, max_len).tolist() == package.encode(TEXT.decode()).ids


def test_threads_share_a_tokenizer(wordpiece: Tokenizer) -> None:
    """A text that one thread truncates leaves those of the others whole."""
    whole = wordpiece.encode(TEXT)
    with ThreadPoolExecutor(4) as pool:
        lengths = list(pool.map(lambda number: len(wordpiece.encode(TEXT, 5 if number % 2 else None)), range(200)))
    assert lengths == [5 if number % 2 else len(whole) for number in range(200)]


def test_where_text_is_only_read_any_tokenizer_will_do(tokenizer: Tokenizer, wordpiece: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(wordpiece.to_bytes())
    assert np.array_equal(open_tokenizer(path, reversible=False).encode(TEXT), wordpiece.encode(TEXT))
    with pytest.raises(ValueError, match="is not byte-level"):
        open_tokenizer(path)
    path.write_bytes(tokenizer.to_bytes())
    read = open_tokenizer(path, reversible=False)
    assert not read.pieces and read.special_tokens == ([], []) and np.array_equal(read.encode(TEXT), tokenizer.encode(TEXT))
    assert open_tokenizer(100, [span(TEXT)], reversible=False).to_bytes() == wordpiece.to_bytes()
