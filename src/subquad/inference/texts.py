"""Whole texts as rows of ids: read, measured against the context, and put into batches of about the same length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subquad.data.subwords import text_ids
from subquad.inference.checks import BYTES
from subquad.models.base import Model, Spectra
from subquad.models.encoder import Encoder

BATCH_IDS = 1 << 14
NEAR = 1.25  # texts of up to so many times a length share its filters' spectra

Row = npt.NDArray[np.integer[Any]]


def text_rows(model: Model, texts: Sequence[bytes | str], truncate: bool) -> list[Row]:
    """The ids of each text. Raises ``ValueError`` as ``model_ids`` does, and for one text in the place of several."""
    if isinstance(texts, bytes | str):
        raise ValueError(f"texts must be a list of bytes or str, got one {type(texts).__name__}: put it into a list")
    return [model_ids(model, text, truncate) for text in texts]


def model_ids(model: Model, text: bytes | str, truncate: bool) -> Row:
    """The ids of a text; a ``str`` is read as UTF-8.

    ``truncate`` keeps the beginning of a text that exceeds the context. Raises ``ValueError`` for such a text without it, and for a token
    model without its tokenizer.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if not isinstance(data, bytes):
        raise ValueError(f"a text must be bytes or str, got {type(text).__name__}")
    tokenizer = model.tokenizer
    if tokenizer is None and model.vocab != BYTES:
        raise ValueError(f"this model has {model.vocab} ids, so it needs its tokenizer (tokenizer.json in the run folder)")
    ids = text_ids(data, tokenizer)
    if len(ids) > model.max_len and not truncate:
        raise ValueError(
            f"a text has {len(ids)} ids and the context is {model.max_len}: shorten it, or truncate texts (truncate=True, --truncate)"
        )
    return ids if len(ids) <= model.max_len else text_ids(data, tokenizer, model.max_len)


def batches(rows: Sequence[Row], encoder: Encoder | None = None) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """The indices of texts in order of their lengths, as many at a time as a batch has room for, with their ids (B, n), padded with 0 to
    the longest, and their lengths. An ``encoder`` says how long texts are when it embeds them."""
    sizes = [len(row) for row in rows]
    for indices in _groups(sizes if encoder is None else [encoder.padded_length(size) for size in sizes]):
        lengths = [sizes[index] for index in indices]
        ids = torch.zeros(len(indices), max(lengths), dtype=torch.int64)
        for row, index in zip(ids, indices, strict=True):
            row[: sizes[index]] = torch.from_numpy(rows[index].astype(np.int64))
        yield indices, ids, lengths


def prepared_batches(encoder: Encoder | None, rows: Sequence[Row]) -> Iterator[tuple[list[int], Tensor, list[int], Spectra | None]]:
    """``batches``, and with each what the encoder has prepared for its length, None without an encoder.

    It is prepared once for a length and all up to a quarter more.
    """
    each = list(batches(rows, encoder))
    prepared_length = 0
    spectra: Spectra | None = None
    for number, (indices, ids, lengths) in enumerate(each):
        if encoder is not None and (length := encoder.padded_length(ids.shape[1])) > prepared_length:
            following = (encoder.padded_length(later.shape[1]) for _, later, _ in each[number:])
            prepared_length = max(later for later in following if later <= NEAR * length)
            with torch.inference_mode():
                spectra = encoder.prepare(prepared_length)
        yield indices, ids, lengths, spectra


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * (lengths[index] + 1) > BATCH_IDS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
