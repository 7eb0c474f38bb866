"""Where precision decides: autocast switched off for a while, and the layout that products in half precision want."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast switched off, where the device has one."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def wants_rows(x: torch.Tensor) -> bool:
    """Whether products of ``x`` run in half precision on a CPU, which is up to 16 times slower there with columns than with whole rows."""
    if x.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype in (torch.bfloat16, torch.float16)
