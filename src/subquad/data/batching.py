"""Texts of different lengths as batches: their ids, rows padded on the right, and texts of similar length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from subquad.data.shuffle import Integers
from subquad.data.windows import Ids
from subquad.text_tokenizer import TextTokenizer

Mask: TypeAlias = npt.NDArray[np.bool_]


def text_ids(
    text: bytes,
    tokenizer: TextTokenizer | None,
    max_len: int | None = None,
    truncate: bool = False,
    remedy: str = "shorten it, or truncate it",
) -> Ids:
    """The ids of a whole text, (n,), its bytes without a tokenizer; with ``truncate`` the first ``max_len``, special tokens included.

    Raises ``ValueError`` for a text of more than ``max_len`` ids; ``remedy`` says how to make it fit.
    """
    limit = max_len if truncate else None
    ids: Ids = np.frombuffer(text[:limit], dtype=np.uint8) if tokenizer is None else tokenizer.encode(text, limit)
    if max_len is not None and len(ids) > max_len:
        raise ValueError(f"a text has {len(ids)} ids and the context is {max_len}: {remedy}")
    return ids


def pad(rows: Sequence[Ids]) -> tuple[Ids, Integers]:
    """The rows as one array (B, T), filled with 0 on the right up to the longest; and their lengths (B,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids: Ids = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int32)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row)] = row
    return ids, lengths


def length_mask(lengths: Integers, length: int) -> Mask:
    """(B, length): True at the first ``lengths[b]`` positions of row b."""
    return np.arange(length) < lengths[:, None]


def order_by_length(lengths: Integers | Sequence[int]) -> Integers:
    """The numbers (N,) of texts, shortest first, and as given where lengths are equal."""
    return np.argsort(np.asarray(lengths), kind="stable")


def group_by_length(lengths: Sequence[int], max_ids: int) -> Iterator[list[int]]:
    """The numbers of texts in groups, shortest first, each of at most ``max_ids`` ids when padded with one more, or of a single text."""
    group: list[int] = []
    for number in order_by_length(lengths).tolist():
        if group and (len(group) + 1) * (lengths[number] + 1) > max_ids:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
