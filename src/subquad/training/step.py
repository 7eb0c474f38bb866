"""The work of one training step, as the trainer does it and a comparison measures it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from subquad.objectives.base import Batch, ModelRunner, Objective
from subquad.training.config import TrainConfig


def accumulate_gradients(objective: Objective[Any], model: ModelRunner, batch: Batch, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Gradients of the mean loss over a batch, read in ``config.accumulate`` parts and clipped to ``config.optim.clip``.

    However it is cut, the mean is over all of it. Returns the summed loss and the norm of the gradient before clipping, both ().
    """
    targets, size = objective.num_targets(batch), config.batch // config.accumulate
    total = torch.zeros((), device=model.device)
    for first in range(0, config.batch, size):
        loss = objective.loss(model, batch.rows(first, first + size))
        torch.autograd.backward(loss / targets)
        total = total + loss.detach()
    return total, nn.utils.clip_grad_norm_(model.module.parameters(), config.optim.clip or math.inf)
