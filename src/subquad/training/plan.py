"""What a run is going to do, in lines, told before its first step."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from subquad.format import count
from subquad.models import PRESETS
from subquad.training.config import TrainConfig


def plan(config: TrainConfig, model: nn.Module, tokens: bool, memory: int | None, out: Path) -> list[str]:
    """The lines of a config whose settings are decided; ``tokens`` says that the model reads them, ``memory`` about how many bytes a step
    takes."""
    name = next((name for name, preset in PRESETS.items() if preset == config.model), config.model.kind)
    parameters = count(sum(parameter.numel() for parameter in model.parameters()))
    about = "" if memory is None else f", about {count(memory, 'B')} of memory beside PyTorch's own"
    window = config.data.window
    samples = "texts" if window is None else f"windows of {window:,} {'tokens' if tokens else 'bytes'}"
    return [
        f"model: {name}, {parameters} parameters, on {config.device} in {config.dtype} with {config.threads} threads{about}",
        f"training: {config.steps:,} steps of {config.batch:,} {samples}, learning rate {config.optim.lr:.3g}, into {out}",
    ]
