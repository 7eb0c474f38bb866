"""One vector for each text. N texts, D width.

An encoder pools as its config says; of a causal model it is the mean of the last hidden vectors, or the last one, which has seen all of the
text. Texts are read in batches of about the same length; padding changes an embedding in its last bits only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from subquad.inference.checks import Progress, device_of, evaluating, expect_finite
from subquad.inference.texts import prepared_batches, text_rows
from subquad.models.base import Model, Pooling, expect_model
from subquad.ops.autocast import at_least_float32


def embed(
    model: nn.Module,
    texts: Sequence[bytes | str],
    *,
    truncate: bool = False,
    pooling: Pooling | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """(N, D), row n the embedding of text n, on the CPU; a ``str`` is read as UTF-8. Of a classifier they are those of its backbone.

    ``truncate`` reads only the beginning of a text that exceeds the context. ``pooling``: of a causal model, "mean" (None) or "last".
    ``progress(done, all)`` is called after each batch, with texts.
    Raises ``ValueError`` for such a text without ``truncate``, for a text without ids where the model needs one, for a text that is not in
    a list, for a pooling that is not the model's, and for a token model without its tokenizer; ``RunError`` for vectors that are not
    finite.
    """
    inner = expect_model(model, Model, "expected a model of this library, got {}: load one with subquad.load")  # type: ignore[type-abstract]
    rows = text_rows(inner, texts, truncate)
    modules, device = list(model.modules()), device_of(model)
    vectors: list[Tensor] = [torch.empty(0)] * len(rows)
    for indices, ids, lengths, spectra in prepared_batches(inner.encoder, rows, progress):
        with evaluating(modules):
            batch = inner.embeddings(ids.to(device), torch.tensor(lengths, device=device), pooling, spectra, call=model)  # (B, D)
        for index, vector in zip(indices, batch.to("cpu", at_least_float32(batch.dtype)), strict=True):
            vectors[index] = vector
    if not vectors:
        return torch.empty(0, inner.config.base_model.hidden_width)
    embeddings = torch.stack(vectors)
    expect_finite(embeddings, "embeddings")
    return embeddings
