"""Reading an official config: what it means here, what changes nothing, what is not supported.

An unknown option is an error: official code ignores misspelt ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import Field, model_validator

from subquad.config import Config, parse, suggest

C = TypeVar("C", bound=Config)

# What transformers notes in a config.json, and settings of its own interface.
TRANSFORMERS = (
    *("architectures", "auto_map", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "model_type", "label2id", "use_cache"),
    *("initializer_range", "return_dict", "output_hidden_states", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
)


class LabelOptions(Config):
    """How transformers names the classes of a config."""

    num_labels: int | None = Field(None, gt=0)
    id2label: dict[int, str] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, their numbers where there are none."""
        names = self.id2label or {}
        return tuple(names.get(label, str(label)) for label in range(self.num_labels or len(names) or 2))

    @model_validator(mode="after")
    def _agree(self) -> LabelOptions:
        if self.id2label is not None and sorted(self.id2label) != list(range(len(self.labels))):
            raise ValueError(f"id2label must name the labels 0 to {len(self.labels) - 1}, got {sorted(self.id2label)}")
        return self


def read_options(kind: type[C], values: Mapping[str, Any], fixed: Mapping[str, Any], ignored: Iterable[str], where: str = "") -> C:
    """The options of an official config as ``kind``.

    ``fixed`` holds those with a single supported value, ``ignored`` those without effect; ``where`` precedes names in errors.
    Raises ``ValueError`` that lists the options not known, or not supported.
    """
    known = [*kind.model_fields, *fixed, *ignored]
    if unknown := [name for name in values if name not in known]:
        hint = suggest(unknown[0], known) if len(unknown) == 1 else f"known: {', '.join(known)}"
        raise ValueError(f"unknown official options {', '.join(where + name for name in unknown)}: {hint}")
    if wrong := [name for name, value in fixed.items() if name in values and values[name] != value]:
        got = ", ".join(f"{where}{name}={values[name]!r}" for name in wrong)
        raise ValueError(f"official options not supported: {got} (only {', '.join(f'{name}={fixed[name]!r}' for name in wrong)})")
    try:
        return parse(kind, {name: value for name, value in values.items() if name in kind.model_fields})
    except ValueError as error:
        raise ValueError(f"official config: {error}") from None
