"""What the objectives on tables share: whole texts as rows of ids, in an order shuffled in each epoch. B texts, T ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from subquad.data.batching import text_ids
from subquad.data.labelled import Labelled
from subquad.data.pairs import Pairs
from subquad.data.rows import Place
from subquad.data.shuffle import Integers, Order
from subquad.data.tokenizer import AnyTokenizer
from subquad.data.windows import Ids, whole_span
from subquad.models.base import Model
from subquad.objectives.base import Batch, Objective, Setup, settle_tokenizer

B = TypeVar("B", bound=Batch)


class TextObjective(Objective[B]):
    """Base of the objectives on tables of whole texts; a sample is a line."""

    def __init__(self, setup: Setup, data: Labelled | Pairs) -> None:
        self.setup, self.data, self.model_config = setup, data, setup.model

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def record(self) -> dict[str, Any]:
        return self.data.record()

    @property
    def window(self) -> int | None:
        return self.setup.data.window

    @property
    def has_test(self) -> bool:
        return bool(self.data.test)

    def prepare(self, model: Model, tokenizer: Path | None = None) -> None:
        window, vocab = self.window, self.setup.data.tokenizer
        if window is not None and window > model.max_len:
            raise ValueError(f"a window of {window} ids exceeds the context of {model.max_len}: lower data.window")
        text = b"\n".join(self.training_texts()) if isinstance(vocab, int) and tokenizer is None else b""
        self.tokenizer = settle_tokenizer(model, self.setup.data, tokenizer, [whole_span(text, "the training part")])
        self.read_texts(model.max_len)
        self._order = Order(len(self.data.train), self.setup.seed)

    def batch(self, first: int, count: int) -> B:
        _, lines = self._order.at(np.arange(first, first + count))
        return self.rows(lines)

    @abstractmethod
    def training_texts(self) -> Iterable[bytes]:
        """All texts of the training part, on which a tokenizer may be trained."""

    @abstractmethod
    def read_texts(self, max_len: int) -> None:
        """Turns the texts of all parts into ids, with ``tokenizer``, so that one that is too long is found before training."""

    @abstractmethod
    def rows(self, lines: Integers) -> B:
        """The lines (B,) of the training part as a batch."""


def encode_text(text: bytes, tokenizer: AnyTokenizer | None, max_len: int, window: int | None, key: str, where: Place) -> Ids:
    """The ids of a text, (n,), truncated to ``window`` where there is one.

    Raises ``ValueError`` for a text of more than ``max_len`` ids without a window; ``key`` is the setting that makes the context longer,
    ``where`` says which text it is.
    """
    remedy = f"raise {key}, or truncate with data.window={max_len}"
    try:
        return text_ids(text, tokenizer, window or max_len, truncate=window is not None, remedy=remedy)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where.file else str(error)) from None
