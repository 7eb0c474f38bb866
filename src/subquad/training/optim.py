"""Fused AdamW, and its state as named tensors.

Weight decay applies to the weights of linear maps and convolutions only: not to norms, biases, embeddings, positions, start and pad
vectors, nor to a linear map whose weight is an embedding (a tied head). A module whose paper trains it differently declares a class
constant ``OPTIMIZER_HINTS``: patterns of its parameters' names -> ``OptimizerHint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from subquad.errors import RunError
from subquad.layers.base import OptimizerHint
from subquad.models.base import BaseModelConfig
from subquad.training.config import OptimConfig, TrainConfig

FINE_TUNING_LR = 1e-3  # at most; docs/results.md, "Fine-tuning"
_SLOTS = ("step", "exp_avg", "exp_avg_sq")


def resolve_lr(config: TrainConfig, model: BaseModelConfig) -> float:
    """The peak learning rate: as set, or the default of the model, which is lower from trained weights on."""
    if config.optim.lr is not None:
        return config.optim.lr
    return default_lr(model, fine_tuning=config.init is not None)


def default_lr(model: BaseModelConfig, fine_tuning: bool) -> float:
    """The default peak learning rate of a model, of fresh weights or of trained ones: at a rate for fresh ones these forget."""
    return min(model.default_lr, FINE_TUNING_LR) if fine_tuning else model.default_lr


def hints(model: nn.Module) -> dict[str, OptimizerHint]:
    """The hints of a model's modules, by full parameter name; those of the innermost module take precedence."""
    hinted: dict[str, OptimizerHint] = {}
    for prefix, module in model.named_modules():
        for pattern, hint in getattr(module, "OPTIMIZER_HINTS", {}).items():
            names = (name for name, _ in module.named_parameters() if fnmatchcase(name, pattern))
            hinted |= {f"{prefix}.{name}" if prefix else name: hint for name in names}
    return hinted


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters with weight decay."""
    hinted = hints(model)
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    usual = linear - tables
    return {name for name, parameter in model.named_parameters() if (hinted[name].decay if name in hinted else id(parameter) in usual)}


def build_optimizer(model: nn.Module, config: OptimConfig, lr: float) -> torch.optim.AdamW:
    """AdamW over the parameters that need gradients, in groups: with and without weight decay, and by hinted rates."""
    decayed, hinted = decayed_names(model), hints(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = hinted[name].rate if name in hinted else 1.0
            groups.setdefault((name in decayed, rate), []).append(parameter)
    options = [
        {"params": parameters, "weight_decay": config.weight_decay if decay else 0.0, "lr": lr * rate, "rate": rate}
        for (decay, rate), parameters in sorted(groups.items(), key=lambda item: (not item[0][0], item[0][1]))
    ]
    return torch.optim.AdamW(options, lr=lr, betas=config.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the rate of every parameter group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors named ``slot/parameter``."""
    return {
        f"{slot}/{name}": optimizer.state[parameter][slot].detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for slot in _SLOTS
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors of ``optimizer_tensors`` back; raises ``RunError`` when they are another model's."""
    remaining = dict(tensors)
    for name, parameter in model.named_parameters():
        state = {slot: remaining.pop(f"{slot}/{name}") for slot in _SLOTS if f"{slot}/{name}" in remaining}
        if not state:
            continue
        if len(state) < len(_SLOTS) or state["exp_avg"].shape != parameter.shape or state["exp_avg_sq"].shape != parameter.shape:
            raise RunError(f"the optimizer's state of {name} does not fit it: resume with the model that the run was started with")
        optimizer.state[parameter] = {slot: tensor.to(parameter.device) for slot, tensor in state.items()}
    if remaining:
        raise RunError(f"the optimizer's state has unknown names: {', '.join(sorted(remaining)[:5])}")
