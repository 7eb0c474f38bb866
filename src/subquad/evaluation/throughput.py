"""How fast this machine is: the yardstick beside every speed that is reported."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SIZE = {"cpu": 1024, "cuda": 8192}


def seconds(call: Callable[[], object], repeat: int = 5) -> float:
    """Median seconds of a call, after one that warms up."""
    times = []
    for _ in range(repeat + 1):
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeat // 2]


def matmul_rate(dtype: torch.dtype, device: str | torch.device = "cpu") -> float:
    """FLOP per second of a square matrix product that is large enough to be limited by arithmetic alone."""
    device = torch.device(device)
    size = SIZE.get(device.type, 2048)
    a = torch.full((size, size), 0.5, dtype=dtype, device=device)  # no random numbers: a resumed run has its own to go on with
    return 2 * size**3 / seconds(lambda: a @ a)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
