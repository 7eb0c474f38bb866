"""The machine's own speed, measured without leaving a trace."""

from __future__ import annotations

import torch

from subquad.evaluation.throughput import matmul_rate


def test_measuring_takes_no_random_numbers() -> None:
    """A run measures the machine after it has restored its random numbers, and must go on with those."""
    before = torch.get_rng_state()
    assert matmul_rate(torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), before)
