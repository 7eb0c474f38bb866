"""Whole texts as rows of ids: read, measured against the context, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subquad.data import Ids, Reader, Subwords
from subquad.data.order import Integers


def text_ids(text: bytes, reader: Reader | None, max_len: int, window: int | None, key: str) -> Ids:
    """The ids of a text, (n,), of one of more than ``window`` ids the first ones.

    Raises ``ValueError`` for a text of more than ``max_len`` ids without a window; ``key`` is the setting that makes the context longer.
    """
    ids: Ids = np.frombuffer(text, dtype=np.uint8) if reader is None else reader.encode(text)
    if window is None and len(ids) > max_len:
        raise ValueError(f"a text has {len(ids)} ids and the context is {max_len}: raise {key}, or cut texts with data.window={max_len}")
    if window is not None and len(ids) > window and isinstance(reader, Subwords):
        ids = reader.encode(text, window)  # with the special tokens at its end
    return ids[:window]


def padded(rows: Sequence[Ids]) -> tuple[Ids, Integers]:
    """The rows as one array (B, T), filled with 0 on the right up to the longest, and their lengths (B,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids: Ids = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int32)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    return ids, lengths
