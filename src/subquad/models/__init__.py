"""Whole models: those of ``registry.py``, and what is put on one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from subquad.config import OneOf, differences, flatten, parse, suggest
from subquad.models import classifier
from subquad.models.base import BaseModelConfig, Model, ModelConfig
from subquad.models.registry import BASE_MODELS
from subquad.models.registry import PRESETS as PRESETS

MODELS: dict[str, type[BaseModelConfig]] = {"classifier": classifier.ClassifierConfig, **BASE_MODELS}

_MOST_CHANGES = 6  # of a preset, in words

AnyModelConfig = Annotated[BaseModelConfig, OneOf(MODELS, "model", presets=PRESETS)]


def presets() -> dict[str, ModelConfig]:
    """Every preset: name -> config."""
    return dict(PRESETS)


def parse_model(values: BaseModelConfig | Mapping[str, Any] | str) -> BaseModelConfig:
    """A config, a preset's name, or a mapping with ``kind`` and the fields of that model's config.

    Raises ``ValueError`` in words.
    """
    if isinstance(values, BaseModelConfig):
        return values
    if isinstance(values, str):
        if values not in PRESETS:
            raise ValueError(f"unknown preset {values!r}: {suggest(values, PRESETS)}")
        return PRESETS[values]
    if not isinstance(values, Mapping):
        raise ValueError(f"expected a model's config, a mapping with its 'kind', or a preset's name, got {values!r}")
    kind = str(values.get("kind"))
    if kind not in MODELS:
        raise ValueError(f"a model config needs 'kind', got {values.get('kind')!r}: {suggest(kind, MODELS)}")
    return parse(MODELS[kind], values)


def describe(config: BaseModelConfig) -> str:
    """A config in words: the nearest preset with what differs from it, ``hyena-tiny (vocab=4096)``, or its kind where much does; what is
    on another model is ``classifier on ...``."""
    kind = config.kind.replace("_", " ")
    if config.base_model is config:
        return _nearest_preset(config) or kind
    return f"{kind} on {_nearest_preset(config.base_model, without='head') or config.base_model.kind.replace('_', ' ')}"


def _nearest_preset(config: BaseModelConfig, without: str = "") -> str | None:
    """The preset with the fewest differences, and these, but for the key ``without``; None where there are many."""
    alike = {
        name: [key for key in differences(config, preset) if key != without]
        for name, preset in PRESETS.items()
        if preset.kind == config.kind
    }
    if not alike:
        return None
    name = min(alike, key=lambda name: len(alike[name]))
    values = flatten(config.model_dump(mode="json"))
    changed = {key: values.get(key) for key in alike[name]}
    if len(changed) > _MOST_CHANGES or any(isinstance(value, list) for value in changed.values()):
        return None
    changes = ", ".join(f"{key}={value}" for key, value in changed.items())
    return f"{name} ({changes})" if changes else name


def build_model(values: Mapping[str, Any] | BaseModelConfig | str) -> Model:
    """A freshly initialised model of a config, a mapping or a preset's name."""
    return parse_model(values).build()
