"""The texts of tables as documents: the same from every kind of table, compressed or not, one a row; other files stay as they are."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest
import zstandard

from subquad.data.config import DataConfig
from subquad.data.corpus import Corpus

TEXTS = ["one", "two\nlines", "caf\u00e9 \u6771\u4eac", "", "x" * 100_000]


def jsonl(column: str = "text") -> bytes:
    return "".join(json.dumps({"id": number, column: text}) + "\n" for number, text in enumerate(TEXTS)).encode()


def contents(corpus: Corpus) -> dict[str, bytes]:
    return {document.name: document.read().tobytes() for document in corpus.documents}


def expected(name: str, first: int = 1) -> dict[str, bytes]:
    return {f"{name}:{line}": text.encode() for line, text in enumerate(TEXTS, first) if text}


def test_the_texts_of_jsonl_plain_and_packed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl())
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(jsonl()))
    (tmp_path / "c.jsonl.bz2").write_bytes(bz2.compress(jsonl()))
    (tmp_path / "d.txt").write_bytes(b"as it is")
    corpus = Corpus.open([tmp_path], form="text")
    assert contents(corpus) == expected("a.jsonl") | expected("b.jsonl.zst") | expected("c.jsonl.bz2") | {"d.txt": b"as it is"}
    assert corpus.empty == 3
    assert contents(Corpus.open([tmp_path / "a.jsonl"])) == {"a.jsonl": jsonl()}


def test_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl("body"))
    assert contents(DataConfig(paths=(str(tmp_path),), format="text", column="body").open()) == expected("a.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: expected a column 'text', got 'id', 'body': .* data\.column=NAME"):
        Corpus.open([tmp_path], form="text")


def test_parquet_is_never_read_as_bytes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), tmp_path / "a.parquet")
    assert contents(Corpus.open([tmp_path])) == contents(Corpus.open([tmp_path], form="text")) == expected("a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, line 1: expected a column 'body'"):
        Corpus.open([tmp_path], column="body")


def test_no_text_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match=r"expected texts in a\.jsonl, got none in its column 'text'"):
        Corpus.open([tmp_path], form="text")
