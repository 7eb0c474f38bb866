"""A trained model with Hyena layers, made a recurrent one: an option for when the memory of exact decoding does not fit."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from subquad.errors import RunError
from subquad.layers.distilled_hyena import DistilledHyena
from subquad.layers.hyena import Hyena


def distill(model: nn.Module, modes: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of ``model`` whose Hyena layers decode by ``modes`` exponentials a filter, and the relative error of every filter.

    The errors, (filters, D), go by the layer's name. The copy shares nothing with the model, generates and scores, and cannot be trained or
    saved. Raises ``ValueError`` for a model without a Hyena layer and for fewer than one mode.
    """
    if not isinstance(modes, int) or modes < 1:
        raise ValueError(f"a filter needs at least one mode, got {modes}: 16 or 32 are usual")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise RunError("the model's weights are not numbers: they are damaged or its training diverged, use another checkpoint")
    distilled = copy.deepcopy(model).requires_grad_(False)
    found = [(name, module) for name, module in distilled.named_modules() if isinstance(module, Hyena)]
    if not found:
        raise ValueError("the model has no Hyena layer to distil: its decoding is exact as it is")
    errors: dict[str, Tensor] = {}
    for name, module in found:
        parent, _, leaf = name.rpartition(".")
        errors[name] = (mixer := DistilledHyena(module, modes)).error
        setattr(distilled.get_submodule(parent), leaf, mixer.train(module.training))
    return distilled, errors
