"""A training step (forward, backward, AdamW) on one sequence of 8,192 bytes, against MEGABYTE-pytorch with the same widths and depths.

make bench BENCHMARKS=training_step
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.recording import interleaved, median, record, table
from subquad.evaluation.flops import count_flops, count_parameters
from subquad.evaluation.throughput import matmul_rate
from subquad.models.megabyte import Megabyte, megabyte

LENGTH, PATCH = 8192, 8
WIDE, NARROW = (512, 6, 8), (256, 4, 8)


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = megabyte(WIDE, NARROW, PATCH, LENGTH)
    ours = Megabyte(config)
    peers = {flash: peer_model(flash) for flash in (True, False)}
    ids = torch.randint(1, 256, (1, LENGTH))  # the peer takes byte 0 for padding
    flops = count_flops(config, backward=True).total * LENGTH
    rows = []
    for name, dtype in (("float32", torch.float32), ("bfloat16 autocast", torch.bfloat16)):
        low = dtype == torch.bfloat16
        steps: dict[str, Callable[[], object]] = {"ours": stepper(ours, partial(our_loss, ours, ids), low)}
        for flash, peer in peers.items():
            steps[f"peer, flash_attn={flash}"] = stepper(peer, partial(peer, ids, return_loss=True), low)
        times = {contender: median(taken) for contender, taken in interleaved(steps, arguments.repeat).items()}
        best = min(time for contender, time in times.items() if contender != "ours")
        limit = flops / matmul_rate(dtype)
        for contender, time in times.items():
            last = [f"{best / time:.2f}x", f"{limit / time:.0%}"] if contender == "ours" else ["", ""]
            rows.append([name, contender, f"{1e3 * time:.0f}", *last])
    sizes = f"ours {count_parameters(ours) / 1e6:.1f}M parameters, the peer {count_parameters(peers[True]) / 1e6:.1f}M"
    body = (
        f"T = {LENGTH}, P = {PATCH}, widths (512, 256), depths (6, 4); {sizes}; medians of {arguments.repeat} interleaved steps. The share "
        "of the limit is counted FLOPs at this machine's matrix-product rate over measured time.\n\n"
        + table(["dtype", "model", "ms per step", "to the faster peer", "share of the limit"], rows)
    )
    record("training-step", "Training step", "make bench BENCHMARKS=training_step", body)


def peer_model(flash: bool) -> Any:
    """MEGABYTE-pytorch at the same widths and depths."""
    from MEGABYTE_pytorch import MEGABYTE

    return MEGABYTE(num_tokens=256, dim=(512, 256), depth=(6, 4), max_seq_len=(LENGTH // PATCH, PATCH), flash_attn=flash)


def our_loss(model: Megabyte, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy."""
    return F.cross_entropy(model(ids).float().flatten(0, 1), ids.flatten())


def stepper(model: Any, loss: Callable[[], torch.Tensor], low: bool) -> Callable[[], None]:
    """One optimizer step of a model as a call."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            value = loss()
        torch.autograd.backward(value)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
