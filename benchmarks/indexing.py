"""How fast a folder of 100,000 small files becomes training data, with nothing prepared.

make bench BENCHMARKS=indexing
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.recording import record, table
from subquad.data.corpus import Corpus
from subquad.data.windows import Windows


def main() -> None:
    """Makes the files, measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    count: int = parser.parse_args().files
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), count)
        corpus, taken = timed(lambda: Corpus.open([folder]))
        rows.append([f"index {count:,} files", f"{taken:.2f} s"])
        split, taken = timed(corpus.split)
        rows.append(["split into train, valid and test", f"{taken:.2f} s"])
        windows, taken = timed(lambda: Windows(split.train, 512, seed=0))
        rows.append(["number the windows", f"{taken:.2f} s"])
        _, taken = timed(lambda: [windows.batch(32 * step, 32) for step in range(100)])
        rows.append(["read a batch of 32 windows, mean of 100", f"{1e3 * taken / 100:.2f} ms"])
    record("indexing", "Many small files", "make bench BENCHMARKS=indexing", table(["what", "time"], rows))


def make_files(folder: Path, count: int) -> None:
    """``count`` files of 100 to 900 bytes, a thousand in each sub-folder."""
    for number in range(count):
        if number % 1000 == 0:
            inside = folder / f"{number // 1000:04}"
            inside.mkdir()
        (inside / f"{number:06}.txt").write_bytes(b"%06d " % number * (15 + number % 115))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
