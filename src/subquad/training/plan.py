"""What a run is going to do, in lines, told before its first step."""

from __future__ import annotations

from pathlib import Path

from subquad.format import amount, count
from subquad.models import describe
from subquad.models.base import Model
from subquad.training.config import TrainConfig


def plan(config: TrainConfig, model: Model, tokens: bool, memory: int | None, out: Path) -> list[str]:
    """The lines of a config whose settings are decided; ``tokens`` says that the model reads them, ``memory`` about how many bytes a step
    takes."""
    parameters = count(sum(parameter.numel() for parameter in model.parameters()))
    about = "" if memory is None else f", about {count(memory, 'B')} of memory beside PyTorch's own"
    window = config.data.window
    samples = amount(config.batch, "text" if window is None else "window")
    length = "" if window is None else f" of {amount(window, 'token' if tokens else 'byte')}"
    start = "" if config.init is None else f"from the weights of {config.init}, "
    return [
        f"model: {describe(model.config)}, {parameters} parameters, on {config.device} in {config.dtype} with "
        f"{amount(config.threads or 1, 'thread')}{about}",
        f"training: {amount(config.steps, 'step')} of {samples}{length}, learning rate {config.optim.lr:.3g}, {start}into {out}",
    ]
