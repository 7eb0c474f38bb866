"""The memory of a process over thousands of steps: it stays where it was after the first of them."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from benchmarks.faults.campaign import Tally, command, prepare, start
from subquad.training.trainer import Trainer

GROWTH = 4 * 2**20  # bytes; keeping a tensor of each step would take more


def run(folder: Path, steps: int) -> Tally:
    """Trains for ``steps`` steps and compares the peak memory after a tenth of them with that after the last."""
    prepare(folder)
    tally, file = Tally("steps in flat memory", tried=steps), folder / "peaks"
    settings = ["--set", "eval.every=100", "--set", "save.every=500", "--steps", str(steps), "--quiet"]
    ended = command([*start(folder, folder / "run"), *settings], folder / "log", lambda: _note_peaks(file, steps))
    tally.expect(ended.status == 0, f"status {ended.status}, {ended.output[-300:]}")
    first, last = json.loads(file.read_text())
    tally.expect(last - first < GROWTH, f"peak memory grew from {first:,} to {last:,} bytes")
    return tally


def _note_peaks(file: Path, steps: int) -> None:
    """Lets the trainer of this process write its peak memory, in bytes, at both steps into a file."""
    report, peaks = Trainer._report_step, list[int]()

    def noting(trainer: Trainer, counters: Any, *rest: Any) -> None:
        report(trainer, counters, *rest)
        if counters.step in (steps // 10, steps):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            file.write_text(json.dumps(peaks))

    Trainer._report_step = noting  # type: ignore[method-assign,assignment]
