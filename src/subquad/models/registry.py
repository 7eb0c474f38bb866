"""The models that read ids themselves, and their presets. A new model is one file beside this one and one line in each table here."""

from __future__ import annotations

from subquad.models import encoder, language_model, megabyte, perceiver_ar
from subquad.models.base import ModelConfig

BASE_MODELS: dict[str, type[ModelConfig]] = {
    "encoder": encoder.EncoderConfig,
    "language_model": language_model.LanguageModelConfig,
    "megabyte": megabyte.MegabyteConfig,
    "perceiver_ar": perceiver_ar.PerceiverARConfig,
}
PRESETS: dict[str, ModelConfig] = {**language_model.PRESETS, **megabyte.PRESETS, **perceiver_ar.PRESETS, **encoder.PRESETS}
