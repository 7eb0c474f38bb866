"""Timing with medians, and writing a measured block into docs/results.md."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from subquad.evaluation.throughput import machine

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"
END = "<!-- results: end -->"


def interleaved(contenders: Mapping[str, Callable[[], object]], repeat: int = 5, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each call, in turns, so that a neighbour on the machine slows all of them alike; a turn before them only warms up."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeat + warm):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm:
                taken[name].append(time.perf_counter() - start)
    return taken


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return sorted(values)[len(values) // 2]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def data_folder() -> Path:
    """The folder of the data that benchmarks share."""
    folder = os.environ.get("SUBQUAD_DATA", "")
    if not folder or not Path(folder).is_dir():
        raise SystemExit("this benchmark needs the folder of the data: name it in the environment variable SUBQUAD_DATA")
    return Path(folder)


def record(name: str, title: str, command: str, body: str) -> None:
    """Replaces the block ``name`` of docs/results.md, or adds it."""
    block = f"<!-- {name} -->\n## {title}\n\n`{command}` · {machine()}\n\n{body.strip()}\n<!-- /{name} -->"
    print(block)
    text = RESULTS.read_text(encoding="utf-8").replace("*Not yet measured.*\n\n", "")
    old = re.search(rf"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->", text, re.DOTALL)
    text = text.replace(old[0], block) if old else text.replace(END, f"{block}\n\n{END}")
    RESULTS.write_text(text, encoding="utf-8")
