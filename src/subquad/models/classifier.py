"""A classifier of whole texts, or an estimator of numbers: a model's last hidden vectors, pooled, and a linear head.

    h = hidden(ids),    pooled = one vector of h,    logits = W dropout(pooled) + b,    or number = center + scale (w dropout(pooled) + b)

Of a causal language model h is (n + 1, D) and pooled its mean, or the last one. The pooled mean and one linear map are HyenaDNA's head
(arXiv 2306.15794, section 4.2). The first vector has seen no id, so an empty text has a class too; a backbone without a start has n
vectors. An encoder pools as its own config says (BERT's pooler over the first vector, the mean, ...). Cost in n: that of the backbone,
without its logits.

B batch, n ids, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from subquad.layers.base import FilterSpectra
from subquad.layers.stack import init_weights
from subquad.models.base import BaseModelConfig, Model
from subquad.models.encoder import Encoder, EncoderConfig
from subquad.models.language_model import LanguageModel, LanguageModelConfig
from subquad.ops.autocast import at_least_float32


class ClassifierConfig(BaseModelConfig):
    """``classes`` are the labels in the order of the logits; training finds them in its data where there are none.

    ``target="number"`` estimates numbers in place of classes; ``center`` and ``scale`` are the mean and the deviation of those that were
    trained on. ``pooling`` takes the mean over a text's vectors, or the last one, which has seen all of it; an encoder has its own
    ``backbone.pooling``, and keeps no head here.
    """

    kind: Literal["classifier"] = "classifier"
    backbone: Annotated[LanguageModelConfig | EncoderConfig, Field(discriminator="kind")]
    classes: tuple[str, ...] = ()
    target: Literal["class", "number"] = "class"
    center: float = 0.0
    scale: float = Field(1.0, gt=0)
    pooling: Literal["mean", "last"] = "mean"
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("classes")
    @classmethod
    def _differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("classes must differ from each other")
        return classes

    @field_validator("backbone")
    @classmethod
    def _headless(cls, backbone: LanguageModelConfig | EncoderConfig) -> LanguageModelConfig | EncoderConfig:
        return backbone.model_copy(update={"head": "none"}) if isinstance(backbone, EncoderConfig) else backbone

    @model_validator(mode="after")
    def _fits(self) -> ClassifierConfig:
        if self.target == "number" and self.classes:
            raise ValueError('target="number" has no classes: leave model.classes out')
        if isinstance(self.backbone, EncoderConfig) and self.pooling != "mean":
            raise ValueError("an encoder pools as backbone.pooling says: leave pooling out, and set model.backbone.pooling.over")
        return self

    @property
    def width(self) -> int:
        return self.backbone.width

    @property
    def outputs(self) -> int:
        """The number of logits, C, or 1."""
        return 1 if self.target == "number" else len(self.classes)

    def build(self) -> Classifier:
        return Classifier(self)


class Classifier(Model):
    """See the module's docstring. Raises ``ValueError`` for fewer than two classes."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        if config.target == "class" and len(config.classes) < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {len(config.classes)}: name them in model.classes")
        self.config: ClassifierConfig = config
        self.backbone: LanguageModel | Encoder = config.backbone.build()
        self.reversible = self.backbone.reversible
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, config.outputs)
        init_weights(self.head, config.backbone.init_std)

    @property
    def vocab(self) -> int:
        return self.config.backbone.vocab

    @property
    def max_len(self) -> int:
        return self.config.backbone.max_len

    def forward(self, ids: Tensor, lengths: Sequence[int] | None = None, spectra: Sequence[FilterSpectra | None] | None = None) -> Tensor:
        """(B, n), of which row b uses the first ``lengths[b]`` -> logits (B, C), or numbers (B,); the ids behind them change nothing.

        ``spectra`` as the ``prepare`` of a backbone that is an encoder made it. Raises ``ValueError`` when n exceeds max_len, and for an
        empty text where the backbone has no start.
        """
        counts = torch.tensor([ids.shape[1]] * len(ids) if lengths is None else list(lengths), device=ids.device)
        if isinstance(self.backbone, Encoder):
            self._check_ids(counts, "an encoder reads it")
            if self.backbone.config.padding == "official":  # which reads its padding: each text is filled up to the context
                ids = _filled(ids, counts, self.max_len)
            inside = torch.arange(ids.shape[1], device=ids.device) < counts[:, None]
            pooled = self.backbone.embed(ids, None if bool(inside.all()) else inside, spectra=spectra)
        else:
            pooled = self._pooled(self.backbone, ids, counts)
        outputs: Tensor = self.head(self.dropout(pooled))
        return outputs if self.config.target == "class" else self.config.center + self.config.scale * outputs.squeeze(1)

    def _pooled(self, backbone: LanguageModel, ids: Tensor, counts: Tensor) -> Tensor:
        if backbone.start is None:
            self._check_ids(counts, "the backbone has no start")
        else:
            counts = counts + 1
        hidden = backbone.hidden(ids)
        hidden = hidden.to(at_least_float32(hidden.dtype))
        if self.config.pooling == "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), counts - 1]
        inside = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
        return hidden.masked_fill(~inside[..., None], 0).sum(1) / counts[:, None]

    @staticmethod
    def _check_ids(counts: Tensor, where: str) -> None:
        if len(counts) and int(counts.min()) < 1:
            raise ValueError(f"an empty text has no class where {where}: leave it out")


def _filled(ids: Tensor, counts: Tensor, length: int) -> Tensor:
    """(B, n) -> (B, length) with 0 behind the first ``counts[b]`` ids of row b; as long as it is where n exceeds ``length``."""
    ids = F.pad(ids, (0, max(0, length - ids.shape[1])))
    return ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= counts[:, None], 0)
