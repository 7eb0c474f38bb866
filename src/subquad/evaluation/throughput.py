"""How fast this machine is: the yardstick beside every speed that is reported."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

SIZE = {"cpu": 1024, "cuda": 8192}
ENOUGH = 2.0  # seconds of measuring one call


def seconds(call: Callable[[], object], repeat: int = 5) -> float:
    """Median seconds of a call, after one that warms up; of fewer than ``repeat`` once they have taken seconds together."""
    times = []
    for _ in range(repeat + 1):
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        times.append(time.perf_counter() - start)
        if len(times) > 1 and sum(times) > ENOUGH:
            break
    return sorted(times[1:])[len(times[1:]) // 2]


def matmul_rate(dtype: torch.dtype, device: str | torch.device = "cpu") -> float:
    """FLOP per second of a square matrix product that is large enough to be limited by arithmetic alone."""
    device = torch.device(device)
    size = SIZE.get(device.type, 2048)
    a = torch.full((size, size), 0.5, dtype=dtype, device=device)  # no random numbers: a resumed run has its own to go on with
    return 2 * size**3 / seconds(lambda: a @ a)


def machine() -> str:
    """The class of machine: what a reader needs to judge a figure by."""
    threads = torch.get_num_threads()
    rates = {name: matmul_rate(dtype) / 1e9 for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    found = re.search(r"model name\s*: (.*)", _cpu_info())
    cpu = found[1] if found else platform.processor()
    return (
        f"{cpu}, {threads} threads, torch {torch.__version__}; its matrix products reach {rates['float32']:.0f} GFLOP/s in float32 and "
        f"{rates['bfloat16']:.0f} in bfloat16"
    )


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
