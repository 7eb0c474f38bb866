"""The fastest method of a long convolution by length, rows and taps: the crossovers that ``method="auto"`` uses.

    make bench BENCHMARKS=long_conv

64 channels, float32, one thread; forward passes of causal convolutions, filters transformed anew in each; then other widths and types.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from benchmarks.recording import interleaved, median, record, table
from subquad.ops.long_conv import Method, long_conv

CHANNELS = 64
SHAPES = ((256, 16), (128, 32), (64, 64), (32, 128), (16, 256), (8, 512), (1, 64), (1, 256), (1, 1024), (1, 8192), (1, 65_536))
METHODS: tuple[Method, ...] = ("fft", "dft", "direct")
DIRECT, DFT = 1024, 16_384  # longest inputs that the slower methods are tried on
TAPS = (3, 8, 16, 32, 64)
WIDTHS = (16, 64, 768)
TYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        full = [full_row(rows, length, arguments.repeat) for rows, length in SHAPES]
        few = [few_row(taps, arguments.repeat) for taps in TAPS]
        wide = [full_row(1, length, arguments.repeat, width) for width in WIDTHS for length in (64, 1024)]
        typed = [full_row(1, length, arguments.repeat, dtype=dtype) for dtype in TYPES.values() for length in (64, 1024)]
    body = (
        f"{CHANNELS} channels, float32, one thread, milliseconds. Filters as long as the input; direct sums are products with Toeplitz "
        "matrices.\n\n"
        + table(["rows", "L", *METHODS], full)
        + "\n\nA few taps, one row of 8,192 positions; direct sums are shifted ones.\n\n"
        + table(["taps", "fft", "direct"], few)
        + "\n\nOther widths, one row.\n\n"
        + table(["channels", "L", *METHODS], [[str(width), *cells[1:]] for width, cells in zip(repeated(WIDTHS), wide, strict=True)])
        + "\n\nOther dtypes of the input, one row; filters are in float32, or in float64 with it.\n\n"
        + table(["dtype", "L", *METHODS], [[name, *cells[1:]] for name, cells in zip(repeated(TYPES), typed, strict=True)])
    )
    record("long-conv", "Methods of a long convolution", "make bench BENCHMARKS=long_conv", body)


def repeated(values: Iterable[Any]) -> list[Any]:
    """Each value once for each of the two lengths."""
    return [value for value in values for _ in range(2)]


def full_row(rows: int, length: int, repeat: int, channels: int = CHANNELS, dtype: torch.dtype = torch.float32) -> list[str]:
    """Filters as long as the input."""
    u, k = torch.randn(rows, channels, length).to(dtype), torch.randn(channels, length, dtype=torch.promote_types(dtype, torch.float32))
    tried = [name for name in METHODS if name == "fft" or length <= (DIRECT if name == "direct" else DFT)]
    calls: dict[str, Callable[[], object]] = {name: partial(long_conv, u, k, method=name) for name in tried}
    times = {name: median(taken) for name, taken in interleaved(calls, repeat).items()}
    return [str(rows), f"{length:,}", *(marked(times, name) for name in METHODS)]


def few_row(taps: int, repeat: int) -> list[str]:
    """Filters much shorter than the input."""
    u, k = torch.randn(1, CHANNELS, 8192), torch.randn(CHANNELS, taps)
    calls: dict[str, Callable[[], object]] = {"fft": lambda: long_conv(u, k, method="fft")}
    if taps <= 16:
        calls["direct"] = lambda: long_conv(u, k, method="direct")
    times = {name: median(taken) for name, taken in interleaved(calls, repeat).items()}
    return [str(taps), *(marked(times, name) for name in ("fft", "direct"))]


def marked(times: dict[str, float], name: str) -> str:
    """Milliseconds, the fewest in bold."""
    if name not in times:
        return ""
    text = f"{1e3 * times[name]:.2f}"
    return f"**{text}**" if times[name] == min(times.values()) else text


if __name__ == "__main__":
    main()
