"""Every campaign in full, into docs/results.md.

make bench BENCHMARKS=faults
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults import archives, damage, file_operations, memory, pages, pickles, signals
from benchmarks.faults.campaign import Tally
from benchmarks.recording import record, table

CAMPAIGNS: dict[str, Callable[[Path], Tally]] = {
    "sigkill": lambda folder: signals.run(folder, signal.SIGKILL, 50),
    "sigterm": lambda folder: signals.run(folder, signal.SIGTERM, 20),
    "sigint": lambda folder: signals.run(folder, signal.SIGINT, 20),
    "sigusr1": lambda folder: signals.run(folder, signal.SIGUSR1, 20),
    "sighup": lambda folder: signals.run(folder, signal.SIGHUP, 20),
    "kills": lambda folder: file_operations.run(folder, "kill"),
    "disk-errors": lambda folder: file_operations.run(folder, "error"),
    "damage": lambda folder: damage.run(folder, 160),
    "pickles": pickles.run,
    "archives": archives.run,
    "pages": pages.run,
    "memory": lambda folder: memory.run(folder, 6000),
}


def main(names: list[str]) -> int:
    """Runs the campaigns that are named, or all, and records the block when all ran."""
    rows, wrong = [], []
    for name in names or CAMPAIGNS:
        with tempfile.TemporaryDirectory() as folder:
            tally = CAMPAIGNS[name](Path(folder).resolve())
        print(f"{name}: {tally.tried} tried, {len(tally.wrong)} wrong", *tally.wrong[:20], sep="\n  ", flush=True)
        rows.append([tally.name, f"{tally.tried:,}", f"{tally.tried and len(tally.wrong):,}"])
        wrong += tally.wrong
    if not names:
        record("faults", "Faults injected", "make bench BENCHMARKS=faults", table(["fault", "tried", "wrong"], rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
