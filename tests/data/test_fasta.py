"""FASTA: a record is its letters whatever the width of the lines, wherever pieces are cut; what is not FASTA is refused in words."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from subquad.data import fasta
from subquad.data.corpus import Corpus
from subquad.data.windows import Windows

RECORDS = {"chr1": b"ACGTNacgtn" * 31, "chr2": b"TTAGGG" * 7, "chr3": b"A"}


def written(records: dict[str, bytes], width: int = 60, newline: bytes = b"\n") -> bytes:
    lines = []
    for name, letters in records.items():
        lines += [b">" + name.encode() + b" some words > more", *(letters[at : at + width] for at in range(0, len(letters), width))]
    return newline.join(lines) + newline


def records(corpus: Corpus) -> dict[str, bytes]:
    return {document.name: document.read().tobytes() for document in corpus.documents}


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 1 << 24])
@pytest.mark.parametrize(("width", "newline"), [(1, b"\n"), (60, b"\r\n"), (1000, b"\n")])
def test_records_are_their_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, width: int, newline: bytes) -> None:
    monkeypatch.setattr(fasta, "_PIECE", piece)
    (tmp_path / "g.fa").write_bytes(newline + written(RECORDS, width, newline))
    assert records(Corpus.open([tmp_path / "g.fa"], form="fasta-cased")) == {f"g.fa/{name}": text for name, text in RECORDS.items()}
    assert records(Corpus.open([tmp_path / "g.fa"], form="fasta")) == {f"g.fa/{name}": text.upper() for name, text in RECORDS.items()}


def test_compressed_files_and_records_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.fna.gz").write_bytes(gzip.compress(b">x one\nAC\n>x two\nGT\n>\nTT\n>empty\n>last\nGG"))
    (tmp_path / "b.fa").write_bytes(b">x\nNN\n")
    found = records(Corpus.open([tmp_path], form="fasta"))
    assert found == {"a.fna.gz/x": b"AC", "a.fna.gz/x#2": b"GT", "a.fna.gz/record": b"TT", "a.fna.gz/last": b"GG", "b.fa/x": b"NN"}


def test_a_byte_order_mark_is_no_letter(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_bytes(b"\xef\xbb\xbf>x\nACGT\n")
    assert records(Corpus.open([tmp_path / "g.fa"], form="fasta")) == {"g.fa/x": b"ACGT"}


@pytest.mark.parametrize("piece", [1, 3, 1 << 24])
def test_the_line_of_a_wrong_letter_is_right_wherever_pieces_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(fasta, "_PIECE", piece)
    (tmp_path / "g.fa").write_bytes(b">a\nAC\nGT\n>b\nAC\nG?T\nAA\n")
    with pytest.raises(ValueError, match=r"g.fa, line 6: .* record 'b', got b'\?'"):
        Corpus.open([tmp_path / "g.fa"], form="fasta")


def test_without_the_form_bytes_are_as_they_lie(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_bytes(written(RECORDS))
    assert records(Corpus.open([tmp_path / "g.fa"])) == {"g.fa": written(RECORDS)}


def test_windows_are_of_single_letters(tmp_path: Path) -> None:
    letters = bytes(random.Random(0).choices(b"ACGT", k=1000))
    (tmp_path / "g.fa").write_bytes(written({"c": letters}))
    corpus = Corpus.open([tmp_path / "g.fa"], form="fasta")
    windows = Windows(corpus.split((1.0, 0.0, 0.0)).train, 64, seed=0)
    for ids, length in zip(*windows.in_order(), strict=True):
        assert ids[:length].tobytes() in letters


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"ACGT\n>x\nACGT\n", "g.fa is not FASTA: expected it to begin with '>', got b'ACGT.* data.format=raw"),
        (b">x\nAC\n\n>chr2 of two\nACGT\nAC1T\n", r"g.fa, line 6: expected letters, .* of the record 'chr2', got b'1': correct it"),
        (b">x\nAC\xff\n", r"line 2: .* the record 'x', got b'\\xff'"),
        (">x\nACGT\n".encode("utf-16"), "g.fa is UTF-16, expected UTF-8: convert it, as with iconv"),
        (">x\nACGT\n".encode("utf-16-le"), "g.fa is UTF-16"),
        (b">x only a header", "g.fa has no sequence"),
        (b"\n\n", "g.fa has no sequence"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "g.fa").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        Corpus.open([tmp_path / "g.fa"], form="fasta")
