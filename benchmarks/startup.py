"""How long a command takes before it does anything, and how large the installed packages are.

make bench BENCHMARKS=startup
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from importlib import metadata

from benchmarks.recording import record, table

COMMANDS = {
    "`subquad --help`": ["-m", "subquad", "--help"],
    "`subquad train --help`": ["-m", "subquad", "train", "--help"],
    "`subquad compare --help`": ["-m", "subquad", "compare", "--help"],
    "`import subquad`": ["-c", "import subquad"],
    "`import subquad; subquad.train`, which imports torch": ["-c", "import subquad; subquad.train"],
    "`python -c pass`, for comparison": ["-c", "pass"],
}
REPEAT = 9


def main() -> None:
    """Measures and writes the block."""
    rows = [[name, f"{1e3 * median_seconds(arguments):.0f} ms"] for name, arguments in COMMANDS.items()]
    needed = sorted(requirements("subquad"))
    sizes = {name: size(name) / 2**20 for name in needed}
    rows.append([f"the core install: {len(needed)} packages with all that they need", f"{sum(sizes.values()):,.0f} MiB"])
    rows += [[f"of these `{name}`", f"{sizes[name]:,.0f} MiB"] for name in sorted(needed, key=lambda name: -sizes[name])[:4]]
    record("startup", "Start-up and size", "make bench BENCHMARKS=startup", table(["what", "median of 9, or size"], rows))


def median_seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of a Python process."""
    times = []
    for _ in range(REPEAT):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def requirements(name: str) -> set[str]:
    """The installed packages that one needs without its extras, itself among them, and what these need."""
    needed, waiting = set[str](), [name]
    while waiting:
        package = waiting.pop()
        if package in needed:
            continue
        try:
            requires = metadata.requires(package) or []
        except metadata.PackageNotFoundError:  # for another platform
            continue
        needed.add(package)
        waiting += [line.split(";")[0].split("[")[0].rstrip("<>=!~ 0123456789.,*").strip() for line in requires if "extra ==" not in line]
    return needed


def size(name: str) -> int:
    """Bytes of a package's files."""
    paths = (file.locate() for file in metadata.files(name) or [])
    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))


if __name__ == "__main__":
    main()
