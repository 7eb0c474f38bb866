"""Progress of a run: log.jsonl always, a bar on a terminal or plain lines elsewhere, and TensorBoard on request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from subquad.console import StderrConsole, show_line
from subquad.format import count, duration
from subquad.system import no_link

Record = dict[str, Any]

_EVERY = 5.0  # seconds between plain lines
_SMOOTH = 0.9  # weight of the past in the loss and rate shown
_WIDE = 120  # columns of a terminal that has room for a bar too


class Log:
    """Appends records, one JSON object a line, each handed to the operating system before the next step begins.

    A process that is killed loses none of them; a machine that loses power may lose the last ones.
    """

    def __init__(self, path: Path) -> None:
        _cut_partial_line(path)
        self._file = open(path, "a", encoding="utf-8", opener=no_link)  # noqa: SIM115

    def write(self, record: Record) -> None:
        """Appends one record and flushes."""
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Display:
    """The step, the time left, the running mean of the training loss, bytes per second and the share of the machine's peak, on stderr.

    ``loss_name`` is what a record calls the loss, ``unit`` what is shown behind it. The peak is that of large matrix products.
    """

    def __init__(
        self, steps: int, console: Console | None = None, quiet: bool = False, loss_name: str = "bits_per_byte", unit: str = "bits per byte"
    ) -> None:
        self._steps, self._loss_name, self._unit = steps, loss_name, unit
        self._console = console or StderrConsole()
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._loss, self._step_seconds = _Mean(), _Mean()
        self._shown = 0.0

    def start(self, step: int) -> None:
        """Begins to show steps after ``step``."""
        if self._console.is_terminal and not self._quiet:
            bar = (BarColumn(),) if self._console.width >= _WIDE else ()
            columns = (TextColumn("step"), MofNCompleteColumn(), *bar, TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("train", total=self._steps, completed=step, text="")
            self._bar.start()

    def update(self, record: Record, step_seconds: float) -> None:
        """Shows a "train" record."""
        loss, seconds, step = self._loss.add(record[self._loss_name]), self._step_seconds.add(step_seconds), record["step"]
        share = "" if record["matmul_share"] is None else f" · {record['matmul_share']:.0%} of peak FLOP/s"
        left = duration((self._steps - step) * seconds)
        text = f"{left} left · training {loss:.3f} {self._unit} (running mean) · {count(record['bytes_per_second'], 'B')}/s{share}"
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
        show_line(self._console, text)

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
    with open(path, "r+b", opener=no_link) as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


class _Mean:
    """A running mean in which the past fades; the first values count as much as they should."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, value: float) -> float:
        """The mean with one more value."""
        self._sum, self._weight = _SMOOTH * self._sum + value, _SMOOTH * self._weight + 1
        return self._sum / self._weight
