"""Models on the meta device: names and shapes of tensors, without memory or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from subquad.models import build_model
from subquad.models.base import BaseModelConfig, Model

_DRAWS = {nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.zeros_, nn.init.constant_}


def build_on_meta(values: Mapping[str, Any] | BaseModelConfig | str) -> Model:
    """The model that ``build_model`` makes, on the meta device. Raises ``ValueError`` as that does."""
    with torch.device("meta"), _Undrawn():  # drawing numbers that nobody keeps would take most of the time
        return build_model(values)


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would be drawn into them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (args or tuple(kwargs.values()))[0] if func in _DRAWS else func(*args, **(kwargs or {}))
