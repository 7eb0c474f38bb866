"""Decoding states: plain values that one can hold, clone and count."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass
class State:
    """Base of every decoding state: a dataclass of tensors (batch first), states, lists of these, and lists with one integer a row.
    ``prefill`` and ``step`` advance it in place; a clone is independent. Anything else is immutable and shared by all clones; where it
    has ``nbytes``, they count."""

    def clone(self) -> Self:
        """An independent copy."""
        return dataclasses.replace(self, **{field.name: _clone(getattr(self, field.name)) for field in dataclasses.fields(self)})

    def reset(self, rows: Sequence[bool], fresh: Self) -> None:
        """Resets the rows that are True to those of ``fresh``, a state of the same shapes."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, _reset(getattr(self, field.name), getattr(fresh, field.name), rows))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held, shared ones included."""
        return sum(_count(getattr(self, field.name)) for field in dataclasses.fields(self))


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor | State):
        return value.clone()
    return [_clone(inner) for inner in value] if isinstance(value, list) else value


def _reset(value: Any, fresh: Any, rows: Sequence[bool]) -> Any:
    if isinstance(value, State):
        value.reset(rows, fresh)
    elif isinstance(value, Tensor):  # the batch comes first
        chosen = torch.tensor(rows, device=value.device).reshape(-1, *(1 for _ in value.shape[1:]))
        return torch.where(chosen, fresh, value)
    elif isinstance(value, list) and value and isinstance(value[0], int):  # one number a row
        return [new if row else old for old, new, row in zip(value, fresh, rows, strict=True)]
    elif isinstance(value, list):
        return [_reset(old, new, rows) for old, new in zip(value, fresh, strict=True)]
    return value


def _count(value: Any) -> int:
    return sum(_count(inner) for inner in value) if isinstance(value, list) else getattr(value, "nbytes", 0)
