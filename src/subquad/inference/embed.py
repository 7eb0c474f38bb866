"""One vector for each text, from an encoder. N texts, D width.

Texts are read in batches of about the same length; padding changes an embedding in its last bits only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from subquad.inference.checks import evaluating
from subquad.inference.texts import prepared_batches, text_rows
from subquad.models.base import expect_model
from subquad.models.encoder import Encoder
from subquad.ops.autocast import at_least_float32
from subquad.ops.ragged import length_mask


def embed(model: nn.Module, texts: Sequence[bytes | str], *, truncate: bool = False) -> Tensor:
    """(N, D), row n the embedding of text n, on the CPU; a ``str`` is read as UTF-8.

    ``truncate`` reads only the beginning of a text that exceeds the context. Raises ``ValueError`` for such a text without it, for a text
    without ids, for a text that is not in a list, for a model that is not an encoder, and for a token model without its tokenizer.
    """
    encoder = expect_model(
        model, Encoder, "expected an encoder, got {}: train one, such as m2-bert-tiny, or convert one, such as m2-bert-80m"
    )
    rows = text_rows(encoder, texts, truncate)
    weight, modules = encoder.embedding.weight, list(model.modules())
    embeddings = torch.empty(len(rows), encoder.config.width, dtype=at_least_float32(weight.dtype))
    for indices, ids, lengths, spectra in prepared_batches(encoder, rows):
        mask = length_mask(lengths, ids.shape[1], weight.device)  # (B, T)
        with evaluating(modules):
            embeddings[indices] = model(ids.to(weight.device), mask, spectra=spectra, output="embedding").to(embeddings)
    return embeddings
