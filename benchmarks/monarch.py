"""What sub-quadratic width buys: feed-forwards of blocks and of Monarch factors against dense ones, Monarch products against dense
products by size, and the ids per second that M2-BERT reads.

    make bench BENCHMARKS=monarch

float32, forward passes without gradients.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from benchmarks.m2_bert import m2_bert
from benchmarks.recording import interleaved, median, record, table
from subquad.layers.feedforward import FeedForward, FeedForwardConfig
from subquad.layers.monarch_linear import MonarchLinear

POSITIONS = 4096
WIDTH = 768
FEED_FORWARDS = {
    "dense": FeedForwardConfig(activation="gelu"),
    "4 blocks": FeedForwardConfig(activation="gelu", blocks=4),
    "order 2": FeedForwardConfig(activation="gelu", order=2),
    "dense, gated": FeedForwardConfig(activation="gelu", gated=True),
    "4 blocks, gated (M2-BERT's)": FeedForwardConfig(activation="gelu", gated=True, blocks=4),
}
SIZES = (256, 1024, 4096)
ORDERS = (2, 3)
TEXTS = ((1, 128), (8, 128), (32, 128), (1, 1024), (4, 1024), (1, 4096))


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        wide = feed_forwards(arguments.repeat)
        sizes = [size_row(size, arguments.repeat) for size in SIZES]
        texts = [texts_row(batch, length, arguments.repeat) for batch, length in TEXTS]
    body = (
        f"Feed-forwards of width {WIDTH}, hidden {4 * WIDTH}, {POSITIONS:,} positions: milliseconds.\n\n"
        + table(["feed-forward", "parameters", "ms", "speed-up over dense"], wide)
        + f"\n\nOne square map of {POSITIONS:,} positions: milliseconds, and how many times faster than dense.\n\n"
        + table(["width", "dense", *(f"order {order}" for order in ORDERS)], sizes)
        + "\n\nM2-BERT (80M) with prepared filters, encoder only: ids per second.\n\n"
        + table(["batch", "ids per text", "ids per second"], texts)
    )
    record("monarch", "Sub-quadratic in width", "make bench BENCHMARKS=monarch", body)


def timed(modules: Mapping[str, nn.Module], width: int, repeat: int) -> dict[str, float]:
    """Median seconds of each on the same input."""
    x = torch.randn(POSITIONS, width)
    calls: dict[str, Callable[[], object]] = {name: partial(module, x) for name, module in modules.items()}
    return {name: median(seconds) for name, seconds in interleaved(calls, repeat).items()}


def feed_forwards(repeat: int) -> list[list[str]]:
    """A row for each."""
    modules = {name: FeedForward(config, WIDTH) for name, config in FEED_FORWARDS.items()}
    times = timed(modules, WIDTH, repeat)
    rows = []
    for name, module in modules.items():
        dense = times["dense, gated" if "gated" in name else "dense"]
        weights = sum(weight.numel() for weight in module.parameters())
        rows.append([name, f"{weights / 1e6:.2f}M", f"{1e3 * times[name]:.1f}", f"{dense / times[name]:.2f}x"])
    return rows


def size_row(width: int, repeat: int) -> list[str]:
    """Dense and Monarch maps of one width."""
    modules: dict[str, nn.Module] = {"dense": nn.Linear(width, width, bias=False)}
    modules |= {str(order): MonarchLinear(width, width, order, bias=False) for order in ORDERS}
    times = timed(modules, width, repeat)
    dense = times["dense"]
    return [f"{width:,}", f"{1e3 * dense:.1f}", *(f"{1e3 * times[str(n)]:.1f} ({dense / times[str(n)]:.1f}x)" for n in ORDERS)]


def texts_row(batch: int, length: int, repeat: int) -> list[str]:
    """M2-BERT on so many texts of so many ids."""
    model, ids = m2_bert(length), torch.randint(30_000, (batch, length))
    held = model.prepare(length)
    taken = interleaved({"ours": lambda: model(ids, spectra=held, output="hidden")}, max(2, repeat // 3))["ours"]
    return [str(batch), f"{length:,}", f"{batch * length / median(taken):,.0f}"]


if __name__ == "__main__":
    main()
