"""Precision: the dtype that sums are computed in, and a context without autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type itself where it has the digits of float32 or more, else float32: what sums, norms and transforms run in."""
    return torch.promote_types(dtype, torch.float32)


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU where it has no float64 (Apple's GPUs)."""
    return torch.device("cpu") if device.type == "mps" else device


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast switched off, where the device has one."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()
