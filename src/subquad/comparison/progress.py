"""The progress of a comparison: a bar over all cells on a terminal, plain lines elsewhere, and a line for each cell that ends."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from subquad.comparison.results import Outcome
from subquad.console import StderrConsole, show_line

_LINE_SECONDS = 30.0  # between plain lines
_TAIL_BYTES = 4096  # of a log: they hold its last line


class GridProgress:
    """Shows on stderr how many cells are done. A running cell counts by the share of its steps in its log."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console or StderrConsole()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shown = time.monotonic()
        self._total = self._done = 0

    def start(self, total: int, done: int) -> None:
        """``total`` cells are run, of which ``done`` are finished already."""
        self._total, self._done = total, done
        if self._quiet or total == done or not self._console.is_terminal:
            return
        columns = (TextColumn("cells {task.fields[text]}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("grid", total=total, completed=done, text=f"{done}/{total}")
        self._bar.start()

    def update(self, running: Mapping[str, Path]) -> None:
        """``running`` maps each running cell to its log."""
        shares = {name: _share_done(path) for name, path in running.items()}
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done + sum(shares.values()), text=f"{self._done}/{self._total}")
        elif running and time.monotonic() - self._shown > _LINE_SECONDS:
            self._shown = time.monotonic()
            each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            self.say(f"{self._done}/{self._total} cells · {each}")

    def finish_cell(self, outcome: Outcome) -> None:
        """A cell has ended with this outcome."""
        self._done += 1
        loss = outcome.loss.get("basic", outcome.loss.get("validation"))
        result = outcome.status if loss is None else f"{loss:.3f} {outcome.unit}"
        result += "" if outcome.accuracy is None else f", accuracy {outcome.accuracy:.1%}"
        result += f" at step {outcome.step}" if outcome.status == "diverged" else f" ({outcome.error})" if outcome.error else ""
        self.say(f"{self._done}/{self._total} {outcome.cell}: {result}")

    def stop(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self._quiet:
            self.always_say(text)

    def always_say(self, text: str) -> None:
        """One line, quiet or not."""
        show_line(self._console, text)


def _share_done(log: Path) -> float:
    """The share of its steps that a run has done, from the last whole line of its log and its train.yaml."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().split(b"\n")[:-1] if b'"kind": "train"' in line]
        step = json.loads(lines[-1])["step"] if lines else 0
        steps = next(line for line in (log.parent / "train.yaml").read_text().splitlines() if line.startswith("steps:"))
        return min(1.0, step / int(steps.split()[1]))
    except (OSError, ValueError, StopIteration):
        return 0.0
