"""The memory of a process over thousands of steps: it stays where it was after the first of them."""

from __future__ import annotations

import resource
import sys
from functools import partial
from pathlib import Path

from benchmarks.faults.campaign import Tally, fork, prepare, wait
from subquad import api

GROWTH = 8 * 2**20  # bytes; keeping a small tensor of each step would take more


def run(folder: Path, steps: int) -> Tally:
    """Trains for ``steps`` steps and for a tenth of them, in two processes, and compares their peak memory."""
    prepare(folder)
    tally, peaks = Tally("steps in flat memory", tried=steps), []
    for number in (steps // 10, steps):
        options = {"steps": number, "eval.every": 100, "save.every": 500}
        ended = wait(fork(partial(_train, folder, number, options), folder / "log"), folder / "log")
        tally.expect(ended.status == 0, f"{number} steps: status {ended.status}, {ended.output[-300:]}")
        peaks.append(int((folder / "peak").read_text()))
    tally.expect(peaks[1] - peaks[0] < GROWTH, f"peak memory grew from {peaks[0]:,} to {peaks[1]:,} bytes")
    return tally


def _train(folder: Path, number: int, options: dict[str, int]) -> int:
    """Trains without a report, which grows with the log, and writes the peak memory of the process in bytes."""
    out = folder / f"steps{number}"
    api.train(folder / "config.yaml", str(folder / "text.txt"), out, options, quiet=True, report=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (folder / "peak").write_text(str(peak if sys.platform == "darwin" else 1024 * peak))
    return 0
