"""What a run learns. A new objective is one file beside this one and one line in the table here."""

from __future__ import annotations

from typing import Annotated

from subquad.config import OneOf
from subquad.models.base import BaseModelConfig
from subquad.objectives.base import Metric, ObjectiveConfig
from subquad.objectives.classification import ClassificationConfig
from subquad.objectives.contrastive import ContrastiveConfig
from subquad.objectives.masked_lm import MaskedLMConfig
from subquad.objectives.next_token import NextTokenConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "next_token": NextTokenConfig,
    "masked_lm": MaskedLMConfig,
    "classification": ClassificationConfig,
    "contrastive": ContrastiveConfig,
}
AnyObjectiveConfig = Annotated[ObjectiveConfig, OneOf(OBJECTIVES, "objective")]


def default_objective(model: BaseModelConfig) -> ObjectiveConfig:
    """The first objective of the table that trains such a model. Raises ``ValueError`` where none does."""
    for objective in OBJECTIVES.values():
        if objective.trains(model):
            return objective.model_validate({})
    raise ValueError(f"no objective trains a model of kind {model.kind!r}: use another model, or add an objective")


def find_metric(name: str) -> Metric:
    """The metric of that name in any log; one that no objective has is called by its name."""
    metrics = {metric.name: metric for objective in reversed(list(OBJECTIVES.values())) for metric in objective.METRICS}
    return metrics.get(name, Metric(name, name.replace("_", " ")))
