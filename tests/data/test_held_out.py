"""The stratified split: parts that share no byte and together are everything, of every kind its share, and what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.data.corpus import Corpus
from subquad.data.documents import Document
from subquad.data.held_out import SMALL, Split, suffix_of
from subquad.data.summary import data_summary
from tests.data.test_corpus import Zeros, check_partition


def corpus_of(sizes: dict[str, int]) -> Corpus:
    return Corpus([Document(name, sizes[name], Zeros()) for name in sorted(sizes)])


def held(split: Split, part: str, suffix: str) -> list[str]:
    return [span.document.name for span in getattr(split, part) if span.document.name.endswith(suffix)]


def shares(split: Split, suffix: str) -> list[float]:
    """The share of the bytes of a kind in each part."""
    sizes = [sum(span.size for span in part if span.document.name.endswith(suffix)) for part in (split.train, split.valid, split.test)]
    return [size / sum(sizes) for size in sizes]


BOOKS = {f"books/{number}.txt": 400_000 + 90_000 * number for number in range(5)}
NOTES = {f"notes/{number}.txt": 300 + 41 * number for number in range(20)}
MIDI = {f"midi/{number:04d}.mid": 200 + 7 * (number % 90) for number in range(862)}
MIXED = {"music.sqlite": 900_000, **MIDI, **{f"recordings/{name}.wav": 500_000 + 1000 * ord(name) for name in "abcd"}}


@pytest.mark.parametrize("seed", range(5))
def test_five_books_and_twenty_notes(seed: int) -> None:
    corpus = corpus_of(BOOKS | NOTES)
    split = corpus.split(seed=seed)
    check_partition(corpus, split)
    assert split.by == "stratified"
    for book in BOOKS:  # of every book the ends are held out
        assert shares(split, book) == pytest.approx([0.9, 0.05, 0.05], abs=1e-4)
    notes = [held(split, part, ".txt") for part in ("train", "valid", "test")]
    counts = [sum(name.startswith("notes") for name in part) for part in notes]  # and whole notes
    assert sum(counts) == 20 and all(1 <= count <= 2 for count in counts[1:])
    assert all(span.size == NOTES[span.document.name] for part in (split.valid, split.test) for span in part if span.document.name in NOTES)


@pytest.mark.parametrize("seed", range(5))
def test_a_database_many_midi_files_and_four_recordings(seed: int) -> None:
    corpus = corpus_of(MIXED)
    split = corpus.split(seed=seed)
    check_partition(corpus, split)
    for suffix in (".sqlite", ".wav", ".mid"):
        assert shares(split, suffix) == pytest.approx([0.9, 0.05, 0.05], abs=0.003), suffix
    assert len(held(split, "valid", ".wav")) == 4 and len(held(split, "valid", ".mid")) == pytest.approx(43, abs=3)
    lines = data_summary(json.loads(json.dumps(corpus.record(split))))
    assert lines[0].startswith("data: 3.3") and " to train on, 18" in lines[0] and lines[0].endswith(" documents to test on")
    assert lines[1].startswith("held out: the ends of 4 .wav; the ends of 1 .sqlite; 4") and lines[1].endswith("of 862 .mid")


def test_folders_and_sizes_have_their_shares() -> None:
    sizes = {f"{folder}/{number}.txt": size for folder, size in (("short", 900), ("long", 90_000)) for number in range(100)}
    sizes |= {f"{folder}/{number}.txt": 900 for folder in ("english", "french") for number in range(40)}
    split = corpus_of(sizes).split()
    for folder in ("short", "long", "english", "french"):
        counts = [sum(span.document.name.startswith(folder) for span in part) for part in (split.valid, split.test)]
        assert counts == [5, 5] if folder in ("short", "long") else [2, 2]


def test_few_small_documents_are_held_out_whole_and_never_all() -> None:
    sizes = {f"{number}.{suffix}": 500 + 30 * number for number in range(4) for suffix in ("md", "py", "json")}
    split = corpus_of(sizes).split()
    assert (len(split.train), len(split.valid), len(split.test)) == (10, 1, 1)
    split = corpus_of({"a.md": 500, "b.py": 900}).split()
    assert [len(part) for part in (split.train, split.valid, split.test)] == [2, 2, 2]


def test_a_large_document_among_small_ones_of_its_kind_is_cut() -> None:
    split = corpus_of({f"{number}.txt": 1000 for number in range(40)} | {"large.txt": 4 * SMALL}).split()
    assert shares(split, "large.txt") == pytest.approx([0.9, 0.05, 0.05], abs=1e-3)
    assert len(split.valid) == 3 and len(split.test) == 3


NAMES = st.text("ab/", max_size=3).flatmap(lambda folder: st.sampled_from([".txt", ".mid", "", ".gz"]).map(lambda suffix: folder + suffix))


@given(st.lists(st.tuples(NAMES, st.integers(1, 300_000)), min_size=3, max_size=80), st.integers(0, 3), st.sampled_from([0.05, 0.2, 0.0]))
def test_parts_are_a_partition_and_none_is_empty(files: list[tuple[str, int]], seed: int, test: float) -> None:
    corpus = corpus_of({f"{number}{name}": size for number, (name, size) in enumerate(files)})
    fractions = (0.95 - test, 0.05, test)
    split = corpus.split(fractions, seed=seed)
    check_partition(corpus, split)
    assert split.train and split.valid and bool(split.test) == bool(test)
    assert corpus.split(fractions, seed=seed).record() == split.record()


def test_the_shares_are_near_the_fractions_whatever_the_kinds() -> None:
    draw = np.random.default_rng(0)
    suffixes = [f".{chr(97 + kind)}" for kind in range(12)]
    sizes = {f"{int(draw.integers(9))}/{number}{suffixes[int(draw.integers(12))]}": int(2 ** draw.uniform(4, 20)) for number in range(3000)}
    split = corpus_of(sizes).split()
    parts = split.record()["parts"]
    for name, fraction in zip(("train", "valid", "test"), split.fractions, strict=True):
        assert parts[name]["bytes"] / sum(sizes.values()) == pytest.approx(fraction, abs=0.01)


def test_suffixes() -> None:
    names = {
        "a.TXT": ".txt",
        "b/c.tar": ".tar",
        "a.jsonl:12": ".jsonl",
        "g.fa/chr1": ".fa",
        "README": "",
        "file.001": "",
        "x/NC_01.3": "",
        "y.mp3": ".mp3",
    }
    assert {name: suffix_of(name) for name in names} == names


def test_the_summary_of_other_records() -> None:
    labelled = {"parts": {"train": {"texts": 80, "bytes": 9000}, "valid": {"texts": 10, "bytes": 1000}, "test": {"texts": 0, "bytes": 0}}}
    assert data_summary(labelled) == [
        "data: 9.00 kB in 80 texts to train on, 1.00 kB in 10 texts for validation, 0 B in 0 texts to test on"
    ]
    assert data_summary({}) == []
