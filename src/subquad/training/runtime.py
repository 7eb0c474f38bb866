"""Contexts around the training loop: threads, signals, activation checkpointing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from subquad.layers.stack import Block


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has matrix units for bfloat16: a GPU that supports it, or a CPU with AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def resolve_dtype(name: str, device: torch.device) -> str:
    """The precision of that name; "auto" is bfloat16 where the device has units for it, else float32."""
    return name if name != "auto" else "bfloat16" if has_bfloat16(device) else "float32"


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Runs torch with that many threads, or its default for None."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def checkpointed(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Keeps only the inputs of each ``Block`` for the backward pass, which computes the rest again; the values stay the same."""
    blocks = [module for module in model.modules() if isinstance(module, Block)] if enabled else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own again


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients, with separate random numbers: training continues as if there had been no evaluation."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            model.train()


SAVING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]  # Windows has two


class Interrupts:
    """Notes the first signal that asks a run to end, so that the loop can save and stop; a second one has its usual effect.

    These are SIGINT, SIGTERM, and what a closed terminal and a cluster's scheduler send, SIGHUP and SIGUSR1. One that is ignored, as SIGHUP
    is under ``nohup``, stays so.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            heard = [number for number in SAVING if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
