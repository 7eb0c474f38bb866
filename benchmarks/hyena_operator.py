"""One Hyena operator, forward and forward with backward, against causal attention (SDPA) and, with --peer, the official operator.

    make bench BENCHMARKS=hyena_operator
    python -m benchmarks.hyena_operator --peer PATH/standalone_hyena.py       # the official one-file version

Width 256, batch 1, float32, order 2, 33 features, a filter network 64 wide; attention has 4 heads. Projections are in all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.recording import interleaved, median, record, table
from subquad.evaluation.throughput import matmul_rate
from subquad.layers.hyena import HyenaConfig
from subquad.layers.long_filter import ImplicitFilterConfig

DIM, HEADS = 256, 4
LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
LONG = 16_384  # from here on a CPU takes many seconds for attention, which is then run once, not warmed up


class CausalAttention(nn.Module):
    """Projections and PyTorch's fused attention: what the operator stands in for."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, DIM // HEADS)).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return y


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", type=Path, help="the official standalone_hyena.py")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    peer = None if arguments.peer is None else official(arguments.peer)
    rows: dict[str, list[list[str]]] = {"forward": [], "forward and backward": []}
    for length in arguments.lengths:
        for kind, times in measured(length, peer, arguments.repeat, arguments.device).items():
            rows[kind].append(row(length, times, kind, arguments.device))
    write(rows, peer is not None, arguments.repeat)


def official(path: Path) -> Any:
    """The class of the official one-file operator."""
    spec = importlib.util.spec_from_file_location("standalone_hyena", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HyenaOperator


def measured(length: int, peer: Any, repeat: int, device: str) -> dict[str, dict[str, float]]:
    """Median seconds of every contender."""
    ours = HyenaConfig(filter=ImplicitFilterConfig(features=33, width=64)).build(DIM, length)
    models: dict[str, nn.Module] = {"ours": ours, "attention": CausalAttention()}
    if peer is not None:
        models["official"] = peer(d_model=DIM, l_max=length, order=2, filter_order=64, emb_dim=33)
    x = torch.randn(1, length, DIM, device=device)
    for model in models.values():
        model.to(device)
    with torch.inference_mode():
        held = ours.prepare(length)
        calls: dict[str, Callable[[], object]] = {name: partial(model, x) for name, model in models.items()}
        calls["ours, prepared"] = lambda: ours(x, None, held)
        forward = timed(calls, repeat, length >= LONG and device == "cpu")
    leaf = x.clone().requires_grad_()
    steps: dict[str, Callable[[], object]] = {name: partial(step, model, leaf) for name, model in models.items()}
    return {"forward": forward, "forward and backward": timed(steps, repeat, length >= LONG and device == "cpu")}


def timed(calls: Mapping[str, Callable[[], object]], repeat: int, once: bool) -> dict[str, float]:
    """Median seconds of each, of attention those of one call if ``once``."""
    slow = {"attention": calls["attention"]} if once else {}
    others = {name: call for name, call in calls.items() if name not in slow}
    taken = interleaved(others, repeat) | interleaved(slow, 1, warm=False)
    return {name: median(times) for name, times in taken.items()}


def step(model: nn.Module, x: Tensor) -> None:
    """Forward and backward."""
    torch.autograd.backward(model(x).sum())


def row(length: int, times: dict[str, float], kind: str, device: str) -> list[str]:
    """Milliseconds, ratios, and the share of what the machine's products alone would need."""
    projections = 8 * DIM * DIM * length * (1 if kind == "forward" else 3)
    names = ["ours", "ours, prepared", "official", "attention"]
    cells = [f"{1e3 * times[name]:.0f}" if name in times else "" for name in names]
    ours, fast = times["ours"], times.get("ours, prepared", times["ours"])
    peer = [f"{times['official'] / ours:.2f}x", f"{times['official'] / fast:.2f}x"] if "official" in times else ["", ""]
    return [
        f"{length:,}",
        *cells,
        *peer,
        f"{times['attention'] / fast:.2f}x",
        f"{1e3 * projections / matmul_rate(torch.float32, device):.0f}",
    ]


def write(rows: dict[str, list[list[str]]], with_peer: bool, repeat: int) -> None:
    """The block of docs/results.md."""
    header = [
        "L",
        "ours",
        "ours, prepared",
        "official",
        "attention",
        "to the official",
        "prepared, to the official",
        "to attention",
        "limit",
    ]
    body = (
        f"Width {DIM}, batch 1, float32, order 2; milliseconds, medians of {repeat} interleaved runs (for attention one run from {LONG:,} "
        "on). Prepared: with precomputed filter spectra. To attention: ratio to the faster of ours. The limit is the time of the "
        "projections alone at this machine's matrix-product rate.\n\n"
    )
    body += "\n\n".join(f"### {kind.capitalize()}\n\n{table(header, lines)}" for kind, lines in rows.items())
    peer = " --peer standalone_hyena.py" if with_peer else ""
    record("hyena-operator", "The Hyena operator", f"python -m benchmarks.hyena_operator{peer}", body)


if __name__ == "__main__":
    main()
