"""Fused AdamW, and its state as named tensors.

Weight decay pulls on the weights of linear maps and convolutions only: not on norms, biases, embeddings, positions, start and pad
vectors, nor on a linear map whose weight is an embedding (a tied head).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from subquad.errors import RunError
from subquad.models.model import AnyModelConfig
from subquad.training.config import OptimConfig

_SLOTS = ("step", "exp_avg", "exp_avg_sq")


def default_lr(width: int) -> float:
    """0.5 / width: within a factor of two of GPT-3's table (6e-4 at 768, 2e-4 at 2,048, 1e-4 at 5,140)."""
    return 0.5 / width


def resolved_lr(config: OptimConfig, model: nn.Module) -> float:
    """The peak learning rate: as set, or from the model's width."""
    if config.lr is not None:
        return config.lr
    assert isinstance(model.config, AnyModelConfig)
    return default_lr(model.config.width)


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay pulls on."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d)}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in linear - tables}


def build_optimizer(model: nn.Module, config: OptimConfig, lr: float) -> torch.optim.AdamW:
    """AdamW over the parameters that need gradients, in two groups: with and without weight decay."""
    decayed = decayed_names(model)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [
        {"params": [parameter for name, parameter in parameters.items() if name in decayed], "weight_decay": config.weight_decay},
        {"params": [parameter for name, parameter in parameters.items() if name not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=config.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group that rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


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
    left = dict(tensors)
    for name, parameter in model.named_parameters():
        state = {slot: left.pop(f"{slot}/{name}") for slot in _SLOTS if f"{slot}/{name}" in left}
        if not state:
            continue
        if len(state) < len(_SLOTS) or state["exp_avg"].shape != parameter.shape or state["exp_avg_sq"].shape != parameter.shape:
            raise RunError(f"the optimizer's state of {name} does not fit it: resume with the model that the run was started with")
        optimizer.state[parameter] = {slot: tensor.to(parameter.device) for slot, tensor in state.items()}
    if left:
        raise RunError(f"the optimizer's state has unknown names: {', '.join(sorted(left)[:5])}")
