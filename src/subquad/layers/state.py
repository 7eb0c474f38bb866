"""Decoding states: plain values that one can hold, clone and count."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor


@dataclass
class State:
    """Base of every decoding state: a dataclass of tensors, integers, states and lists of these. ``prefill`` and ``step`` advance it in
    place; a clone goes its own way."""

    def clone(self) -> Self:
        """An independent copy."""
        return dataclasses.replace(self, **{field.name: _clone(getattr(self, field.name)) for field in dataclasses.fields(self)})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(_count(getattr(self, field.name)) for field in dataclasses.fields(self))


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor | State):
        return value.clone()
    return [_clone(inner) for inner in value] if isinstance(value, list) else value


def _count(value: Any) -> int:
    if isinstance(value, State):
        return value.nbytes
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_count(inner) for inner in value) if isinstance(value, list) else 0
