"""Batches of texts: their ids and what exceeds the context, padding, and groups of about one length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.data.batching import group_by_length, length_mask, order_by_length, pad, text_ids
from subquad.data.characters import Characters

LENGTHS = st.lists(st.integers(0, 30), max_size=20)


def test_ids_of_a_text() -> None:
    assert text_ids(b"abc", None).tolist() == [97, 98, 99] and text_ids(b"ACG", Characters.dna()).tolist() == [7, 8, 9]
    for tokenizer, first in ((None, 65), (Characters.dna(), 7)):
        assert text_ids(b"ACG", tokenizer, 2, truncate=True).tolist()[0] == first
        assert len(text_ids(b"ACG", tokenizer, 2, truncate=True)) == 2 and len(text_ids(b"ACG", tokenizer, 3)) == 3
        with pytest.raises(ValueError, match="a text has 3 ids and the context is 2: raise max_len"):
            text_ids(b"ACG", tokenizer, 2, remedy="raise max_len")


@given(LENGTHS)
def test_padding_keeps_every_row(sizes: list[int]) -> None:
    rows = [np.arange(1, size + 1) for size in sizes]
    ids, lengths = pad(rows)
    assert lengths.tolist() == sizes and ids.shape == (len(sizes), max(sizes, default=0))
    assert all((padded[: len(row)] == row).all() and not padded[len(row) :].any() for padded, row in zip(ids, rows, strict=True))


def test_a_mask_covers_each_row_up_to_its_length() -> None:
    assert length_mask(np.array([0, 2, 5]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]
    assert length_mask(np.empty(0, np.int64), 3).shape == (0, 3)


@given(LENGTHS, st.integers(1, 100))
def test_groups_hold_every_text_once_by_length(lengths: list[int], max_ids: int) -> None:
    groups = list(group_by_length(lengths, max_ids))
    assert [number for group in groups for number in group] == order_by_length(lengths).tolist()
    assert order_by_length(lengths).tolist() == sorted(range(len(lengths)), key=lengths.__getitem__)
    assert all(len(group) == 1 or len(group) * (lengths[group[-1]] + 1) <= max_ids for group in groups)
