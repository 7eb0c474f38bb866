"""A vocabulary of characters: HyenaDNA's ids, one for each byte, kept as a tokenizer.json and found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from subquad.data.characters import Characters
from subquad.data.corpus import Corpus
from subquad.data.tokenizer import count_bytes, open_tokenizer, tokenized


def test_the_ids_are_those_of_hyenadna() -> None:
    codec = Characters.dna()
    assert codec.vocab == 12 and codec.mask_id == 3 and codec.special_tokens == ([], [])
    assert codec.encode(b"ACGTN").tolist() == [7, 8, 9, 10, 11]
    assert codec.encode(b"acgtn").tolist() == [7, 8, 9, 10, 11]
    assert codec.encode(b"R\n>\x00\xff-ACGTNN")[:6].tolist() == [6] * 6
    assert codec.pieces == [b""] * 6 + [b"N", b"A", b"C", b"G", b"T", b"N"]
    assert codec.byte_lengths.tolist() == [0] * 6 + [1] * 6


def test_a_text_and_its_ids_have_one_length() -> None:
    codec, every = Characters.dna(), bytes(range(256))
    ids = codec.encode(b"N" * 256 + every)[256:]
    assert ids.dtype == np.uint8 and len(ids) == 256 and codec.byte_lengths[ids].sum() == 256
    back = codec.decode(ids)
    assert {one: two for one, two in zip(every, back, strict=True) if two != ord("N")} == {
        **{ord(letter): ord(letter) for letter in "ACGT"},
        **{ord(letter): ord(letter.upper()) for letter in "acgt"},
    }
    assert codec.decode([7, 8]) == b"AC" and codec.encode(b"").size == 0 and codec.encode(b"ACGT", 2).tolist() == [7, 8]


def test_it_is_kept_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(Characters.dna().to_bytes())
    for found in (open_tokenizer(path), open_tokenizer(str(path), reversible=False), open_tokenizer("dna")):
        assert isinstance(found, Characters) and found.to_bytes() == Characters.dna().to_bytes()
        assert np.array_equal(found.table, Characters.dna().table)


@pytest.mark.parametrize(
    "content", [b'{"type": "characters"}', b'{"type": "characters", "tokens": ["A"], "unknown": "B", "unknown_as": "N"}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a vocabulary of characters"):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_what_is_in_other_characters_is_refused(tmp_path: Path) -> None:
    codec = Characters.dna()
    assert codec.encode(b"ACRY").tolist() == [7, 8, 6, 6]
    for text in (b"Hello world", b"MKTAYIAKQRQISFVKSHFSRQ", b"ACRYS"):
        with pytest.raises(ValueError, match="a text is not in the characters ACGTN that this tokenizer reads, it begins b'"):
            codec.encode(text)
    (tmp_path / "prose.txt").write_bytes(b"It was the best of times. " * 9)
    spans = Corpus.open([tmp_path / "prose.txt"]).split((1.0, 0.0, 0.0)).train
    with pytest.raises(ValueError, match=r"prose\.txt is not in the characters ACGTN"):
        tokenized(spans, codec)


def test_spans_are_read_as_characters(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"ACGTNNRYACGT")
    codec, (span,) = Characters.dna(), Corpus.open([tmp_path / "g"]).split((1.0, 0.0, 0.0)).train
    (stretch,) = tokenized([span], codec)
    assert stretch.size == 12 and stretch.read(2, 8).tolist() == codec.encode(b"GTNNRY").tolist()
    assert count_bytes(stretch.read(0, 12)[None], np.array([12]), (0, 12), codec) == 12
