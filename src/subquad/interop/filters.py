"""How official code lays out the filters that Hyena and Monarch Mixer share: layouts of their tensors, and whether features are a table."""

from __future__ import annotations

import torch

from subquad.config import parse
from subquad.interop.keys import Layout, StateDict, equals
from subquad.layers.long_filter import ImplicitFilterConfig

FIRST = Layout(lambda x: x.squeeze(0), lambda x: x.unsqueeze(0))  # a leading dimension of one
ROW = Layout(lambda x: x.unsqueeze(0), lambda x: x.squeeze(0))  # a leading dimension of one that only ours has
RATES = Layout(lambda x: x.flatten(), lambda x: x[None, None])
SHORT = Layout(lambda w: w.squeeze(1).flip(1), lambda w: w.flip(1).unsqueeze(1))  # a correlation: its last tap is lag 0


def has_table(state: StateDict, name: str, length: int, features: int, rate: float) -> bool:
    """Whether the features of position under ``name`` are to be read: as a parameter, or as a buffer (a learning rate of 0) that is not
    what would be computed."""
    table = state.get(name)
    if rate != 0:
        return True
    if table is None or table.is_meta or table.shape != (1, length, features):
        return False  # the report names a missing or reshaped one
    like = parse(ImplicitFilterConfig, {"features": features, "width": 1}).build(1, length)
    computed = like.features(torch.arange(length), torch.float64)
    return not equals(table[0], computed, 1e-4)  # the official ones are computed in float32: angles near 100, rounded
