"""The machine's own speed, measured without leaving a trace."""

from __future__ import annotations

import pytest
import torch

from subquad.evaluation import throughput
from subquad.evaluation.throughput import machine, matmul_rate, seconds, synchronize


def test_measuring_takes_no_random_numbers() -> None:
    """A run measures the machine after it has restored its random numbers, and must go on with those."""
    before = torch.get_rng_state()
    assert matmul_rate(torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_is_waited_for_before_and_after_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(throughput, "synchronize", lambda device: events.append(str(device)))
    seconds(lambda: events.append("call"), repeat=2, device="cuda:1")
    assert events == ["cuda:1", "call", "cuda:1"] * 3


def test_the_device_that_is_asked_for_is_synchronized(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: devices.append(str(device)))
    for device in ("cpu", "meta", "cuda:1", torch.device("mps")):
        synchronize(device)
    assert devices == ["cuda:1", "mps"]


def test_the_machine_says_its_threads_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "matmul_rate", lambda dtype, device: 5e9 if dtype is torch.float32 else 7e9)
    text = machine()
    assert f"{torch.get_num_threads()} threads, torch {torch.__version__}" in text
    assert text.endswith("its matrix products reach 5 GFLOP/s in float32 and 7 in bfloat16")
