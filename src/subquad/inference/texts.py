"""Whole texts as rows of ids: encoded, checked against the context, and put into batches of about the same length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from subquad.data.batching import group_by_length, pad, text_ids
from subquad.data.windows import Ids
from subquad.inference.checks import BYTES, Progress
from subquad.models.base import Model, Spectra, expect_model
from subquad.models.encoder import Encoder

BATCH_IDS = 1 << 14
NEAR = 1.25  # texts of up to this many times a length share its filter spectra


def text_rows(model: Model, texts: Sequence[bytes | str], truncate: bool) -> list[Ids]:
    """The ids of each text.

    Raises ``ValueError`` for a single text in place of a list, and as ``unreadable`` says, with the number of the text.
    """
    if isinstance(texts, bytes | str):
        raise ValueError(f"texts must be a list of bytes or str, got a single {type(texts).__name__}: put it into a list")
    rows = []
    for number, text in enumerate(texts):
        try:
            rows.append(_readable_ids(model, text, truncate))
        except ValueError as error:
            raise ValueError(f"texts[{number}]: {error}" if len(texts) > 1 else str(error)) from None
    return rows


def unreadable(model: nn.Module, texts: Sequence[bytes | str], *, truncate: bool = False) -> dict[int, str]:
    """Why the model cannot read some of the texts, by their numbers: longer than the context, empty, or not UTF-8 for its tokenizer.

    Raises ``ValueError`` for a model that reads no texts, and for a token model without its tokenizer.
    """
    inner = expect_model(model, Model, "expected a model of this library, got {}: load one with subquad.load")  # type: ignore[type-abstract]
    expect_tokenizer(inner)
    reasons = {}
    for number, text in enumerate(texts):
        try:
            _readable_ids(inner, text, truncate)
        except ValueError as error:
            reasons[number] = str(error)
    return reasons


def expect_tokenizer(model: Model) -> None:
    """Raises ``ValueError`` for a token model without its tokenizer."""
    if model.tokenizer is None and model.vocab != BYTES:
        raise ValueError(f"this model has {model.vocab} ids, so it needs its tokenizer (tokenizer.json in the run folder)")


def _readable_ids(model: Model, text: bytes | str, truncate: bool) -> Ids:
    """``model_ids`` of a text that is not empty: a vector of nothing would say nothing."""
    ids = model_ids(model, text, truncate)
    if not len(ids):
        raise ValueError("a text is empty: leave it out")
    return ids


def model_ids(model: Model, text: bytes | str, truncate: bool) -> Ids:
    """The ids of a text; a ``str`` is read as UTF-8.

    ``truncate`` keeps the beginning of a text that exceeds the context. Raises ``ValueError`` for such a text without it, and for a token
    model without its tokenizer.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if not isinstance(data, bytes):
        raise ValueError(f"a text must be bytes or str, got {type(text).__name__}")
    expect_tokenizer(model)
    return text_ids(data, model.tokenizer, model.max_len, truncate, "shorten it, or truncate texts (truncate=True, --truncate)")


def batches(rows: Sequence[Ids], encoder: Encoder | None = None) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """The indices of texts in order of their lengths, as many at a time as a batch has room for, with their ids (B, n), padded with 0 to
    the longest, and their lengths. An ``encoder`` says how long texts are when it embeds them."""
    sizes = [len(row) if encoder is None else encoder.padded_length(len(row)) for row in rows]
    for indices in group_by_length(sizes, BATCH_IDS):
        ids, lengths = pad([rows[index] for index in indices])
        yield indices, torch.from_numpy(ids).long(), lengths.tolist()


def prepared_batches(
    encoder: Encoder | None, rows: Sequence[Ids], progress: Progress | None = None
) -> Iterator[tuple[list[int], Tensor, list[int], Spectra | None]]:
    """``batches``, and with each what the encoder has prepared for its length, None without an encoder.

    It is prepared once for a length and all up to a quarter more. ``progress`` is called when the next batch is asked for.
    """
    each = list(batches(rows, encoder))
    prepared_length = done = 0
    spectra: Spectra | None = None
    for number, (indices, ids, lengths) in enumerate(each):
        if encoder is not None and (length := encoder.padded_length(ids.shape[1])) > prepared_length:
            following = (encoder.padded_length(later.shape[1]) for _, later, _ in each[number:])
            prepared_length = max(later for later in following if later <= NEAR * length)
            with torch.inference_mode():
                spectra = encoder.prepare(prepared_length)
        yield indices, ids, lengths, spectra
        done += len(indices)
        if progress is not None:
            progress(done, len(rows))
