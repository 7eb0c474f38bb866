"""Splits: parts that share no byte, together everything, a pure function of names, sizes, fractions and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.data.corpus import Corpus
from subquad.data.documents import Document
from subquad.data.held_out import WAYS, Split


class Zeros:
    def read(self, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start, dtype=np.uint8)


def corpus_of(sizes: list[int]) -> Corpus:
    return Corpus([Document(f"{index:04d}", size, Zeros()) for index, size in enumerate(sizes)])


def check_partition(corpus: Corpus, split: Split) -> None:
    spans = sorted((span.document.name, span.start, span.stop) for part in (split.train, split.valid, split.test) for span in part)
    assert all(start < stop for _, start, stop in spans)
    assert sum(stop - start for _, start, stop in spans) == corpus.bytes
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in zip(spans, spans[1:], strict=False))


@given(st.lists(st.integers(1, 10_000), min_size=3, max_size=60), st.integers(0, 9))
def test_by_document_parts_are_whole_documents_and_none_is_empty(sizes: list[int], seed: int) -> None:
    corpus = corpus_of(sizes)
    split = corpus.split(by="document", seed=seed)
    check_partition(corpus, split)
    assert split.train and split.valid and split.test
    assert all(span.start == 0 and span.stop == span.document.size for span in split.train + split.valid + split.test)
    assert corpus.split(by="document", seed=seed).record() == split.record()


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=30))
def test_by_range_each_document_is_cut_in_order(sizes: list[int]) -> None:
    corpus = corpus_of([*sizes, 1000])
    split = corpus.split((0.8, 0.1, 0.1), by="range")
    check_partition(corpus, split)
    assert (split.train[-1].start, split.train[-1].stop) == (0, 800)
    assert (split.valid[-1].start, split.valid[-1].stop) == (800, 900)
    assert (split.test[-1].start, split.test[-1].stop) == (900, 1000)


def test_by_document_comes_near_the_fractions_and_depends_on_the_seed() -> None:
    corpus = corpus_of(np.random.default_rng(0).integers(1, 5000, 1000).tolist())
    split = corpus.split(by="document", seed=1)
    parts = split.record()["parts"]
    for name, fraction in zip(("train", "valid", "test"), split.fractions, strict=True):
        assert abs(parts[name]["bytes"] / corpus.bytes - fraction) < 0.002
    assert split.record()["held_out"] != corpus.split(by="document", seed=2).record()["held_out"]


def test_a_fraction_of_zero_leaves_a_part_empty() -> None:
    for by in WAYS:
        split = corpus_of([100] * 20).split((0.9, 0.1, 0.0), by=by)
        assert (sum(s.size for s in split.train), sum(s.size for s in split.valid), split.test) == (1800, 200, [])
        assert not corpus_of([5]).split((1, 0, 0), by=by).valid


def test_the_record_is_json_and_tells_the_boundaries(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    corpus = Corpus.open([tmp_path])
    record = json.loads(json.dumps(corpus.record(corpus.split(by="range", seed=3))))
    assert record == {
        "paths": [str(tmp_path)],
        "documents": 1,
        "empty": 0,
        "skipped": [],
        "bytes": 100,
        "fingerprint": corpus.fingerprint,
        "image": None,
        "task": None,
        "split": {
            "by": "range",
            "fractions": [0.9, 0.05, 0.05],
            "seed": 3,
            "parts": {
                "train": {"bytes": 90, "documents": 1},
                "valid": {"bytes": 5, "documents": 1},
                "test": {"bytes": 5, "documents": 1},
            },
            "kinds": {"without suffix": {"documents": 1, "cut": 1, "documents_of_parts": [1, 1, 1], "bytes_of_parts": [90, 5, 5]}},
            "boundaries": {"valid": [["a", 90, 95]], "test": [["a", 95, 100]]},
        },
    }
    assert corpus.record()["split"] is None


@pytest.mark.parametrize("fractions", [(0.9, 0.2, 0.0), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (0.9, 0.1), (float("nan"), 0.5, 0.5)])
def test_wrong_fractions(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="expected three fractions"):
        corpus_of([100]).split(fractions)


def test_too_little_to_split() -> None:
    with pytest.raises(ValueError, match="expected at least 3 documents to split by document, got 2: split by range"):
        corpus_of([100, 100]).split(by="document")
    with pytest.raises(ValueError, match="too few to split into 0.9/0.05/0.05"):
        corpus_of([3]).split()
    with pytest.raises(ValueError, match="got 'line'"):
        corpus_of([3]).split(by=cast(Any, "line"))
