"""A classifier of whole texts, or a regression model: a backbone's last hidden vectors, pooled, and a linear head.

    h = hidden(ids),    pooled = one vector of h,    logits = W dropout(pooled) + b,    or number = mean + std (w dropout(pooled) + b)

Of a causal model h is (n + 1, D) and pooled its mean, or the last one. The pooled mean and one linear map are HyenaDNA's head (arXiv
2306.15794, section 4.2). The first vector has seen no id, so an empty text has a class too; a backbone without a start has n vectors.
An encoder pools as its own config says (BERT's pooler over the first vector, the mean, ...). Cost in n: that of the backbone, without its
logits.

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
from subquad.models.base import BaseModelConfig, CausalModel, Model, ModelConfig, Pooling, Spectra, state_shapes
from subquad.models.encoder import Encoder, EncoderConfig
from subquad.models.registry import BASE_MODELS, PRESETS

AnyBackboneConfig = Annotated[ModelConfig, OneOf(BASE_MODELS, "backbone", presets=PRESETS)]


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
    pooling: Pooling = "mean"
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
    def _headless(cls, backbone: ModelConfig) -> ModelConfig:
        return with_changes(backbone, {"head": "none"}) if isinstance(backbone, EncoderConfig) else backbone

    @model_validator(mode="after")
    def _fits(self) -> ClassifierConfig:
        if self.problem_type == "regression" and self.classes:
            raise ValueError('problem_type="regression" has no classes: leave model.classes out')
        if isinstance(self.backbone, EncoderConfig) and self.pooling != "mean":
            raise ValueError(
                "pooling is for causal models, and the backbone is an encoder: leave it out, and set model.backbone.pooling.over"
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
        backbone = config.backbone.build()
        assert isinstance(backbone, Encoder | CausalModel)
        self.backbone: Encoder | CausalModel = backbone
        self.reversible = self.backbone.reversible
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.backbone.hidden_width, config.outputs)
        init_weights(self.head, config.backbone.init_std)

    @property
    def vocab(self) -> int:
        return self.config.backbone.vocab

    @property
    def max_len(self) -> int:
        return self.config.backbone.max_len

    @property
    def encoder(self) -> Encoder | None:
        return self.backbone.encoder

    def embeddings(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        pooling: Pooling | None = None,
        spectra: Spectra | None = None,
        call: nn.Module | None = None,
    ) -> Tensor:
        """See ``Model.embeddings``: those of the backbone."""
        return self.backbone.embeddings(ids, lengths, pooling, spectra)

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

        ``spectra`` as an encoder's ``prepare`` made them. Raises ``ValueError`` when n exceeds max_len, and for an empty text where the
        backbone needs an id; lengths in a tensor are trusted, as looking at them would wait for their device.
        """
        lengths = [ids.shape[1]] * len(ids) if lengths is None else lengths
        shortest = None if isinstance(lengths, Tensor) else min(lengths, default=ids.shape[1])
        if shortest == 0 and not self.config.backbone.reads_empty:
            reason = "a backbone without a start vector" if self.encoder is None else "an encoder"
            raise ValueError(f"{reason} cannot classify an empty text: leave it out")
        counts = None if shortest == ids.shape[1] else torch.as_tensor(lengths, device=ids.device)  # (B,)
        pooling = self.config.pooling if self.encoder is None else None
        pooled = self.backbone.embeddings(ids, counts, pooling, spectra)  # (B, D)
        outputs: Tensor = self.head(self.dropout(pooled))  # (B, C), or (B, 1)
        if self.config.problem_type == "classification":
            return outputs
        return self.config.target_mean + self.config.target_std * outputs.squeeze(1)
