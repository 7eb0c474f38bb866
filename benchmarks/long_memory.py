"""Memory of a training step of a small Hyena against the length, up to a million positions: peak of the whole process, and of tensors.

    make bench BENCHMARKS=long_memory

Each length runs in its own process: `hyena-tiny` with that context, one row, activations of each block recomputed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from benchmarks.recording import record, table
from subquad.config import override
from subquad.models import build_model, parse_model
from subquad.models.base import CausalModel
from subquad.training.runtime import checkpointed

LENGTHS = (1 << 14, 1 << 16, 1 << 18, 1 << 20)


def main() -> None:
    """Measures and writes the block, or, with a length, measures that and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--length", type=int)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.length is not None:
        print(json.dumps(step(arguments.length)))
        return
    rows = []
    for length in LENGTHS:
        command = [sys.executable, "-m", "benchmarks.long_memory", "--length", str(length), "--threads", str(arguments.threads)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        rows.append([f"{length:,}", f"{found['peak'] / 2**30:.2f} GiB", f"{found['before'] / 2**30:.2f} GiB", f"{found['seconds']:.1f} s"])
    body = (
        "`hyena-tiny` (width 64, two layers, 256 logits), one row, float32, forward and backward with the activations of each block "
        "recomputed; the peak is the resident memory of the whole process.\n\n"
        + table(["positions", "peak", "before the step", "time of the step"], rows)
    )
    record("long-memory", "Memory against length", "make bench BENCHMARKS=long_memory", body)


def step(length: int) -> dict[str, float]:
    """One forward and backward pass."""
    model = build_model(override(parse_model("hyena-tiny").model_dump(mode="json"), {"max_len": length}))
    assert isinstance(model, CausalModel)
    ids = torch.randint(256, (1, length))
    before = peak()
    start = time.perf_counter()
    with checkpointed(model, True):
        torch.autograd.backward(F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()))
    return {"peak": peak(), "before": before, "seconds": time.perf_counter() - start}


def peak() -> int:
    """Bytes of resident memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
