"""A classifier of whole texts, or a regression model: a backbone's last hidden vectors, pooled, and a linear head.

    h = hidden(ids),    pooled = one vector of h,    logits = W dropout(pooled) + b,    or number = mean + std (w dropout(pooled) + b)

Of a causal language model h is (n + 1, D) and pooled its mean, or the last one. The pooled mean and one linear map are HyenaDNA's head
(arXiv 2306.15794, section 4.2). The first vector has seen no id, so an empty text has a class too; a backbone without a start has n
vectors. An encoder pools as its own config says (BERT's pooler over the first vector, the mean, ...). Cost in n: that of the backbone,
without its logits.

B batch, n ids, D width, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from subquad.config import OneOf, with_changes
from subquad.layers.stack import init_weights
from subquad.models import encoder, language_model
from subquad.models.base import BaseModelConfig, Model, ModelConfig, Spectra, state_shapes
from subquad.models.encoder import Encoder, EncoderConfig
from subquad.models.language_model import LanguageModel, LanguageModelConfig
from subquad.ops.autocast import at_least_float32
from subquad.ops.ragged import length_mask

BACKBONES = {"language_model": LanguageModelConfig, "encoder": EncoderConfig}
AnyBackboneConfig = Annotated[
    LanguageModelConfig | EncoderConfig, OneOf(BACKBONES, "backbone", presets={**language_model.PRESETS, **encoder.PRESETS})
]


class ClassifierConfig(BaseModelConfig):
    """``classes`` are the labels in the order of the logits; training finds them in its data where there are none.

    ``problem_type="regression"`` predicts numbers in place of classes; ``target_mean`` and ``target_std`` are those of the numbers that
    were trained on. ``pooling`` takes the mean over a text's vectors, or the last one, which has seen all of it; an encoder has its own
    ``backbone.pooling``, and keeps no head here.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"target": "problem_type", "center": "target_mean", "scale": "target_std"}

    HAS_BACKBONE: ClassVar[bool] = True

    kind: Literal["classifier"] = "classifier"
    backbone: AnyBackboneConfig
    classes: tuple[str, ...] = ()
    problem_type: Literal["classification", "regression"] = "classification"
    target_mean: float = 0.0
    target_std: float = Field(1.0, gt=0)
    pooling: Literal["mean", "last"] = "mean"
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("problem_type", mode="before")
    @classmethod
    def _renamed_value(cls, value: Any) -> Any:
        return {"class": "classification", "number": "regression"}.get(value, value) if isinstance(value, str) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _as_read(cls, classes: Any) -> Any:
        """Numbers and booleans as the labels of a table are read."""
        return (
            [json.dumps(label) if isinstance(label, int | float) else label for label in classes] if isinstance(classes, list) else classes
        )

    @field_validator("classes")
    @classmethod
    def _differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("classes must differ from each other")
        return classes

    @field_validator("backbone")
    @classmethod
    def _headless(cls, backbone: LanguageModelConfig | EncoderConfig) -> LanguageModelConfig | EncoderConfig:
        return with_changes(backbone, {"head": "none"}) if isinstance(backbone, EncoderConfig) else backbone

    @model_validator(mode="after")
    def _fits(self) -> ClassifierConfig:
        if self.problem_type == "regression" and self.classes:
            raise ValueError('problem_type="regression" has no classes: leave model.classes out')
        if isinstance(self.backbone, EncoderConfig) and self.pooling != "mean":
            raise ValueError(
                "pooling is for language models, and the backbone is an encoder: leave it out, and set model.backbone.pooling.over"
            )
        return self

    @property
    def base_model(self) -> ModelConfig:
        return self.backbone

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes

    @property
    def width(self) -> int:
        return self.backbone.width

    @property
    def default_lr(self) -> float:
        return self.backbone.default_lr

    @property
    def outputs(self) -> int:
        """The number of logits, C, or 1."""
        return 1 if self.problem_type == "regression" else len(self.classes)

    def build(self) -> Classifier:
        return Classifier(self)


class Classifier(Model):
    """See the module's docstring. Raises ``ValueError`` for fewer than two classes."""

    INSTEAD = "a classifier predicts labels: use it with subquad classify, or take a language model"

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        if config.problem_type == "classification" and len(config.classes) < 2:
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

    @property
    def encoder(self) -> Encoder | None:
        """The backbone where it is an encoder."""
        return self.backbone if isinstance(self.backbone, Encoder) else None

    def id_tables(self) -> list[Tensor]:
        return self.backbone.id_tables()

    def copy_weights(self, start: Model, source: str) -> None:
        """See ``Model.copy_weights``. Weights of a model that is not the same classifier, or of its backbone, become the backbone's."""
        if state_shapes(start) == state_shapes(self):
            super().copy_weights(start, source)
            return
        self.backbone.copy_weights(start.backbone if isinstance(start, Classifier) else start, source)
        self.tokenizer = start.tokenizer

    def forward(self, ids: Tensor, lengths: Tensor | Sequence[int] | None = None, spectra: Spectra | None = None) -> Tensor:
        """(B, n), of which row b uses the first ``lengths[b]`` -> logits (B, C), or numbers (B,); the ids behind them change nothing.

        ``spectra`` as the backbone's ``prepare`` made them. Raises ``ValueError`` when n exceeds max_len, and for an empty text where the
        backbone needs an id; lengths in a tensor are trusted, as looking at them would wait for their device.
        """
        lengths = [ids.shape[1]] * len(ids) if lengths is None else lengths
        shortest = None if isinstance(lengths, Tensor) else min(lengths, default=ids.shape[1])
        if shortest == 0 and (isinstance(self.backbone, Encoder) or self.backbone.start is None):
            reason = "an encoder" if isinstance(self.backbone, Encoder) else "a backbone without a start vector"
            raise ValueError(f"{reason} cannot classify an empty text: leave it out")
        counts = torch.as_tensor(lengths, device=ids.device)  # (B,)
        if isinstance(self.backbone, Encoder):
            mask = None if shortest == ids.shape[1] else length_mask(counts, ids.shape[1], ids.device)
            pooled = self.backbone(ids, mask, spectra=spectra, output="embedding")  # (B, D)
        else:
            hidden = self.backbone(ids, spectra=spectra, output="hidden")  # (B, n + 1, D), or n of them without a start
            pooled = self._pooled(hidden, counts if self.backbone.start is None else counts + 1)
        outputs: Tensor = self.head(self.dropout(pooled))  # (B, C), or (B, 1)
        if self.config.problem_type == "classification":
            return outputs
        return self.config.target_mean + self.config.target_std * outputs.squeeze(1)

    def _pooled(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """One vector of a language model's, (B, n, D) -> (B, D), where row b has ``counts[b]`` of them."""
        hidden = hidden.to(at_least_float32(hidden.dtype))
        if self.config.pooling == "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), counts - 1]
        inside = length_mask(counts, hidden.shape[1], hidden.device)  # (B, n)
        return hidden.masked_fill(~inside[..., None], 0).sum(1) / counts[:, None]
