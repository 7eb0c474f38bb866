"""Timing with medians, and writing a measured block into docs/results.md."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from subquad.data.sets import set_folder
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


def data_set(name: str) -> Path:
    """The folder of a data set that benchmarks share, such as ``text/pg_books``."""
    if not (folder := set_folder(name)).is_dir():
        raise SystemExit(f"this benchmark needs the data set {name}, which is not in {folder}: subquad data fetch {name}")
    return folder


def record(name: str, title: str, command: str, body: str) -> None:
    """Replaces the block ``name`` of docs/results.md, or adds it."""
    block = f"<!-- {name} -->\n## {title}\n\n`{command}` · {machine()}\n\n{body.strip()}\n<!-- /{name} -->"
    print(block)
    text = RESULTS.read_text(encoding="utf-8").replace("*Not yet measured.*\n\n", "")
    old = re.search(rf"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->", text, re.DOTALL)
    text = text.replace(old[0], block) if old else text.replace(END, f"{block}\n\n{END}")
    RESULTS.write_text(text, encoding="utf-8")
