"""What the objectives on corpora share: windows of documents, split into train, validation and test."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, TypeVar

from subquad.data.characters import Characters
from subquad.data.tokenizer import tokenized
from subquad.models.base import Model, ModelConfig
from subquad.objectives.base import Batch, Objective, Setup, settle_tokenizer

B = TypeVar("B", bound=Batch)


class WindowObjective(Objective[B]):
    """Base of the objectives on a corpus; a sample is a window. ``split`` is there after ``prepare``."""

    def __init__(self, setup: Setup) -> None:
        assert isinstance(setup.model, ModelConfig)
        self.setup, self.model_config, self.max_len = setup, setup.model, setup.model.max_len
        self.corpus = setup.data.open()

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    def record(self) -> dict[str, Any]:
        return self.corpus.record(self.split)

    @property
    def window(self) -> int:
        data, task = self.setup.data, self.corpus.task
        window = data.window or (data.image.size if data.image else task.size if task else self.max_len)
        if task and (window != task.size or data.pack or data.tokenizer is not None):
            raise ValueError(f"a window of a task is one example of {task.size} bytes: leave out data.window, data.pack and data.tokenizer")
        if window > self.max_len:
            raise ValueError(f"a window of {window} ids exceeds the model's context of {self.max_len}: lower data.window or raise max_len")
        return window

    @property
    def has_test(self) -> bool:
        return any(span.size for span in self.split.test)

    def prepare(self, model: Model, tokenizer: Path | None = None) -> None:
        data, seed = self.setup.data, self.setup.seed
        window = self.window
        self.split = self.corpus.split(data.fractions, data.split, seed if data.split_seed is None else data.split_seed)
        self.split_by = self.split.by
        self.tokenizer = settle_tokenizer(model, data, tokenizer, self.split.train)
        if isinstance(self.tokenizer, Characters):
            tokenized(self.split.test, self.tokenizer)  # text in other characters is refused now and not after the training
        self.cut_windows(model, window)

    @abstractmethod
    def cut_windows(self, model: Model, window: int) -> None:
        """Makes windows of up to that many ids of the training part and, where samples are held out, of the validation part."""
