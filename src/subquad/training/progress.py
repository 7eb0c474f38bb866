"""Progress of a run: log.jsonl always, a bar on a terminal or plain lines elsewhere, and TensorBoard on request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from subquad.format import count, duration

Record = dict[str, Any]

_EVERY = 5.0  # seconds between plain lines
_SMOOTH = 0.9  # weight of the past in the loss and rate shown


class Log:
    """Appends records, one JSON object a line, each handed to the operating system before the next step begins.

    A process that is killed loses none of them; a machine that loses power may lose the last ones.
    """

    def __init__(self, path: Path) -> None:
        _cut_partial_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Appends one record and flushes."""
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Display:
    """The loss, bytes per second, share of the matmul rate and time left, on stderr.

    ``loss_name`` is what a record calls the loss, ``unit`` what is shown behind it.
    """

    def __init__(
        self, steps: int, console: Console | None = None, quiet: bool = False, loss_name: str = "bits_per_byte", unit: str = "bits per byte"
    ) -> None:
        self._steps, self._loss_name, self._unit = steps, loss_name, unit
        self._console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._loss: float | None = None
        self._step_seconds: float | None = None
        self._shown = 0.0

    def start(self, step: int) -> None:
        """Begins to show steps after ``step``."""
        if self._console.is_terminal and not self._quiet:
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("train", total=self._steps, completed=step, text="")
            self._bar.start()

    def update(self, record: Record, step_seconds: float) -> None:
        """Shows a "train" record."""
        self._loss = _smoothed(self._loss, record[self._loss_name])
        self._step_seconds = _smoothed(self._step_seconds, step_seconds)
        step = record["step"]
        remaining = (self._steps - step) * self._step_seconds
        share = "" if record["matmul_share"] is None else f" · {record['matmul_share']:.0%} of matmul rate"
        text = f"{self._loss:.3f} {self._unit} · {count(record['bytes_per_second'], 'B')}/s{share} · {duration(remaining)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        elif time.monotonic() - self._shown >= _EVERY or step == self._steps:
            self.say(f"step {step}/{self._steps} · {text}")
            self._shown = time.monotonic()

    def say(self, text: str) -> None:
        """One line of text, unless quiet."""
        if not self._quiet:
            self.tell(text)

    def tell(self, text: str) -> None:
        """One line of text, quiet or not."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Tracker:
    """TensorBoard's view of the records, in the run's folder ``tensorboard``; what comes after ``step`` there is dropped."""

    def __init__(self, run: Path, step: int) -> None:
        self._writer = summary_writer()(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, record: Record) -> None:
        """Shows the numbers and the text of one record."""
        kind, step = record["kind"], record["step"]
        for name, value in record.items():
            if name == "text":
                self._writer.add_text(kind, value, step)
            elif name not in ("kind", "step") and isinstance(value, int | float):
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def summary_writer() -> Callable[..., Any]:
    """TensorBoard's writer class; raises ``ValueError`` when the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("track=tensorboard needs TensorBoard: pip install 'subquad[track]'") from error
    writer: Callable[..., Any] = SummaryWriter
    return writer


def _cut_partial_line(path: Path) -> None:
    """Removes the incomplete last line of a killed process."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _smoothed(past: float | None, value: float) -> float:
    return value if past is None else _SMOOTH * past + (1 - _SMOOTH) * value
