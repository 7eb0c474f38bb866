"""Writes what ``make demo`` measured into docs/results.md.

make demo && .venv/bin/python -m benchmarks.demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.recording import record, table


def main() -> None:
    """Reads the demo's results and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("runs/demo/results.json"))
    results: dict[str, dict[str, Any]] = json.loads(parser.parse_args().results.read_text(encoding="utf-8"))
    rows = []
    for name, figures in results.items():
        trained = [f"{figures['steps']:,}", f"{figures['seconds']:.0f} s"] if "steps" in figures else ["", ""]
        rows.append([name, f"{figures['bits_per_byte']:.3f}", *trained])
    body = (
        "Bits per byte of the last tenth of tinyshakespeare, which no model has seen; compressors on that part alone, and primed "
        "with the rest. Seconds are for the whole training run with validations, samples and report.\n\n"
        + table(["", "bits per byte", "steps", "training"], rows)
    )
    record("demo", "The demo", "make demo", body)


if __name__ == "__main__":
    main()
