"""Windows: epoch 0 covers every byte, documents never mix, and a batch is a pure function of its sample numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.data.corpus import Corpus
from subquad.data.documents import Document
from subquad.data.windows import Span, Windows


class Array:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.values[start:stop]


def marked(sizes: list[int]) -> list[Span]:
    """Up to 8 spans of up to 31 bytes that start at byte 1; each byte is 32 * span + place in the span, so all differ."""
    return [
        Span(Document(str(number), size + 2, Array((np.arange(-1, size + 1) + 32 * number).astype(np.uint8))), 1, 1 + size)
        for number, size in enumerate(sizes)
    ]


SIZES = st.lists(st.integers(0, 31), min_size=1, max_size=8).filter(any)
LENGTHS = st.integers(1, 40)
EPOCHS = st.integers(0, 3)


def samples(windows: Windows, first: int, count: int) -> list[list[int]]:
    ids, lengths = windows.batch(first, count)
    assert ids.shape == (count, windows.length) and ids.dtype == np.uint8
    assert lengths.shape == (count,) and lengths.dtype == np.int64
    assert all(not row[length:].any() for row, length in zip(ids, lengths, strict=True))
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


@given(SIZES, LENGTHS, st.integers(0, 9), EPOCHS)
def test_windows_of_an_epoch(sizes: list[int], length: int, seed: int, epoch: int) -> None:
    windows = Windows(marked(sizes), length, seed)
    assert windows.count == sum(-(-size // length) for size in sizes)
    assert windows.bytes == sum(sizes)
    rows = samples(windows, epoch * windows.count, windows.count)
    for row in rows:
        number = row[0] // 32
        assert row == list(range(row[0], row[0] + len(row))), "a window is one run of bytes of one document"
        assert row[-1] // 32 == number
        assert len(row) == min(length, sizes[number]), "a window is short only when its document is"
    if epoch == 0:
        assert {byte for row in rows for byte in row} == {32 * number + place for number, size in enumerate(sizes) for place in range(size)}
        assert all(row[0] % 32 % length == 0 or row[0] % 32 == sizes[row[0] // 32] - length for row in rows)


@given(SIZES, LENGTHS, st.integers(0, 9), st.booleans(), st.integers(0, 50), st.integers(1, 40))
def test_a_sample_depends_on_its_number_alone(sizes: list[int], length: int, seed: int, pack: bool, first: int, count: int) -> None:
    alone = Windows(marked(sizes), length, seed, pack=pack)
    again = Windows(marked(sizes), length, seed, pack=pack)
    whole = samples(alone, 0, first + count)
    assert samples(again, first, count) == whole[first:], "a resumed run goes on where the stopped one was"


@given(SIZES, LENGTHS, st.integers(0, 9), EPOCHS)
def test_packing_joins_all_spans(sizes: list[int], length: int, seed: int, epoch: int) -> None:
    windows = Windows(marked(sizes), length, seed, pack=True)
    joined = [32 * number + place for number, size in enumerate(sizes) for place in range(size)]
    assert windows.count == -(-len(joined) // length)
    rows = samples(windows, epoch * windows.count, windows.count)
    for row in rows:
        start = joined.index(row[0])
        assert row == joined[start : start + min(length, len(joined))]
    if epoch == 0:
        assert {byte for row in rows for byte in row} == set(joined)
    assert [byte for ids, size in zip(*windows.in_order(), strict=True) for byte in ids[:size].tolist()] == joined


@given(SIZES, LENGTHS, st.integers(1, 12))
def test_in_order_is_every_byte_once(sizes: list[int], length: int, limit: int) -> None:
    windows = Windows(marked(sizes), length, 0)
    rows = [ids[:size].tolist() for ids, size in zip(*windows.in_order(), strict=True)]
    assert len(rows) == windows.count
    assert [byte for row in rows for byte in row] == [32 * number + place for number, size in enumerate(sizes) for place in range(size)]
    assert all(row[0] // 32 == row[-1] // 32 and row[0] % 32 % length == 0 for row in rows)
    some = [ids[:size].tolist() for ids, size in zip(*windows.in_order(limit), strict=True)]
    assert len(some) == min(limit, windows.count) and some[0] == rows[0]
    assert [row for row in rows if row in some] == some


def test_later_epochs_shift_a_document_by_one_phase() -> None:
    length, size = 10, 200
    ramp = [Span(Document("ramp", size, Array(np.arange(size).astype(np.uint8))), 0, size)]
    shifted, still = Windows(ramp, length, seed=5), Windows(ramp, length, seed=5, shift=False)
    seen = set()
    for epoch in range(200):
        starts = np.sort(shifted.batch(epoch * shifted.count, shifted.count)[0][:, 0].astype(int))
        inner = {(int(start) + length // 2) % length - length // 2 for start in starts[1:-1]}
        assert len(inner) == 1
        assert epoch or inner == {0}
        seen |= inner
        plain = np.sort(still.batch(epoch * still.count, still.count)[0][:, 0]).tolist()
        assert plain == list(range(0, size, length))
    assert seen == set(range(-length // 2, length // 2))


def test_a_hundred_thousand_spans_are_cheap() -> None:
    source = Array(np.zeros(3000, dtype=np.uint8))
    document = Document("zeros", 3000, source)
    spans = [Span(document, 0, 1 + index % 3000) for index in range(100_000)]
    for pack in (False, True):
        windows = Windows(spans, 512, 0, pack=pack)
        ids, _ = windows.batch(10**12, 64)
        assert ids.shape == (64, 512)


def test_windows_over_real_files(tmp_path: Path) -> None:
    texts = {f"{index:02d}": np.random.default_rng(index).bytes(100 + 37 * index) for index in range(30)}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    split = Corpus.open([tmp_path]).split(seed=1)
    train = {span.document.name for span in split.train}
    for row in samples(Windows(split.train, 64, 7), 0, 200):
        assert any(bytes(row) in texts[name] for name in train)


def test_wrong_windows() -> None:
    with pytest.raises(ValueError, match="a window of at least 1 byte, got 0"):
        Windows(marked([3]), 0, 0)
    for spans in ([], marked([0])):
        with pytest.raises(ValueError, match="expected bytes to cut windows from, got none"):
            Windows(spans, 4, 0)
    with pytest.raises(ValueError, match="limit of at least 1"):
        Windows(marked([3]), 4, 0).in_order(0)
