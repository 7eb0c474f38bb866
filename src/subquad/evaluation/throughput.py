"""The speed of a machine, which every reported speed is compared with."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

SIZE = {"cpu": 1024, "cuda": 8192}
ENOUGH = 2.0  # seconds of measuring one call

Device = str | torch.device


def seconds(call: Callable[[], object], repeat: int = 5, device: Device = "cpu") -> float:
    """Median seconds of a call whose work is done on ``device``, after one that warms up; of fewer than ``repeat`` once they have taken
    seconds together."""
    times = []
    for _ in range(repeat + 1):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
        if len(times) > 1 and sum(times) > ENOUGH:
            break
    return sorted(times[1:])[len(times[1:]) // 2]


def synchronize(device: Device) -> None:
    """Waits until a device has done all that it was given; a CPU has when a call returns."""
    if torch.device(device).type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def matmul_rate(dtype: torch.dtype, device: Device = "cpu") -> float:
    """FLOP per second of a square matrix product that is large enough to be limited by arithmetic alone."""
    size = SIZE.get(torch.device(device).type, 2048)
    a = torch.full((size, size), 0.5, dtype=dtype, device=device)  # no random numbers: a resumed run continues its own
    return 2 * size**3 / seconds(lambda: a @ a, device=device)


def machine(device: Device = "cpu") -> str:
    """The class of machine: what a reader needs to judge a figure by."""
    rates = {name: matmul_rate(dtype, device) / 1e9 for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    return (
        f"{hardware(device)}; its matrix products reach {rates['float32']:.0f} GFLOP/s in float32 and {rates['bfloat16']:.0f} in bfloat16"
    )


def hardware(device: Device = "cpu") -> str:
    """The processor or GPU and the version of torch."""
    return f"{_processor(torch.device(device))}, torch {torch.__version__}"


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.processor()} ({device.type})"
    path = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", path.read_text(encoding="utf-8") if path.exists() else "")
    return f"{model[1] if model else platform.processor()}, {torch.get_num_threads()} threads"
