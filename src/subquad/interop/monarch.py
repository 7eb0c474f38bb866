"""Official Monarch layers: ``MonarchLinear`` of HazyResearch/fly. Its factors have the names ``blkdiag1`` and ``blkdiag2``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import Field
from torch import nn

from subquad.config import Config
from subquad.interop.keys import Key, Keys, StateDict
from subquad.interop.options import read_options
from subquad.layers.monarch_linear import MonarchLinear


class LinearOptions(Config):
    """Options of the official ``MonarchLinear``, with their official defaults."""

    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    nblocks: int = Field(4, gt=0)
    bias: bool = True


def linear(config: Mapping[str, Any], state: StateDict) -> tuple[Callable[[], nn.Module], Keys]:
    """The official ``MonarchLinear``, (..., in_features) -> (..., out_features)."""
    options = read_options(LinearOptions, config, {}, ("device", "dtype"))
    keys = [Key("blkdiag1", "factors.0"), Key("blkdiag2", "factors.1"), *([Key("bias", "bias")] if options.bias else [])]
    return partial(MonarchLinear, options.in_features, options.out_features, 2, options.nblocks, options.bias), Keys(keys)
