"""A classifier of whole texts: a causal language model's last hidden vectors, pooled, and a linear head.

    h = hidden(ids)  (n + 1, D),    pooled = mean of h, or its last vector,    logits = W dropout(pooled) + b

The pooled mean and one linear map are HyenaDNA's head (arXiv 2306.15794, section 4.2). The first vector has seen no id, so an empty text
has a class too; a backbone without a start has n vectors. Cost in n: that of the backbone, without its logits.

B batch, n ids, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from subquad.layers.stack import init_weights
from subquad.models.language_model import LanguageModelConfig
from subquad.models.model import AnyModelConfig, Model


class ClassifierConfig(AnyModelConfig):
    """``classes`` are the labels in the order of the logits; training finds them in its data where there are none.

    ``pooling`` takes the mean over a text's vectors, or the last one, which has seen all of it.
    """

    kind: Literal["classifier"] = "classifier"
    backbone: LanguageModelConfig
    classes: tuple[str, ...] = ()
    pooling: Literal["mean", "last"] = "mean"
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("classes")
    @classmethod
    def _differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("classes must differ from each other")
        return classes

    @property
    def width(self) -> int:
        return self.backbone.width

    def build(self) -> Classifier:
        return Classifier(self)


class Classifier(Model):
    """See the module's docstring. Raises ``ValueError`` for fewer than two classes."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        if len(config.classes) < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {len(config.classes)}: name them in model.classes")
        self.config: ClassifierConfig = config
        self.backbone = config.backbone.build()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, len(config.classes))
        init_weights(self.head, config.backbone.init_std)

    @property
    def vocab(self) -> int:
        return self.config.backbone.vocab

    @property
    def max_len(self) -> int:
        return self.config.backbone.max_len

    def forward(self, ids: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """(B, n), of which row b uses the first ``lengths[b]`` -> (B, C); the ids behind them change nothing.

        Raises ``ValueError`` when n exceeds max_len, and for an empty text where the backbone has no start.
        """
        first = 0 if self.backbone.start is None else 1
        counts = [length + first for length in ([ids.shape[1]] * len(ids) if lengths is None else lengths)]
        if min(counts, default=1) < 1:
            raise ValueError("an empty text has no class where the backbone has no start: leave it out")
        hidden = self.backbone.hidden(ids)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return self.head(self.dropout(self._pooled(hidden, torch.tensor(counts, device=ids.device))))

    def _pooled(self, hidden: Tensor, counts: Tensor) -> Tensor:
        if self.config.pooling == "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), counts - 1]
        inside = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
        return hidden.masked_fill(~inside[..., None], 0).sum(1) / counts[:, None]
