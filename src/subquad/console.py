"""What people read while a program works: lines and bars on stderr. They never end the work, and nothing in them controls the terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from subquad.format import count, duration, visible
from subquad.system import silence

_AFTER, _EVERY = 2.0, 10.0  # seconds before a work is shown, and between its lines where there is no terminal


class StderrConsole(Console):
    """A console on stderr (or ``file``) that goes silent where it cannot be written to: its reader has left, or a log's disk is full."""

    def __init__(self, file: TextIO | None = None, quiet: bool = False) -> None:
        stream: Any = _Forgiving(sys.stderr if file is None else file)
        super().__init__(file=stream, highlight=False, quiet=quiet)


def show_line(console: Console, text: str) -> None:
    """Prints a text as it is, without markup; what cannot be seen in it is written out."""
    console.print(visible(text, "\n\t"), markup=False, highlight=False, soft_wrap=True)


class WorkProgress:
    """How much of a work is done, and the time left, on stderr: a bar on a terminal, a line every ten seconds elsewhere.

    It is called with what is done and with all of it, in ``unit``; a work of less than two seconds shows nothing, and so does ``quiet``.
    """

    def __init__(self, unit: str, quiet: bool = False, console: Console | None = None) -> None:
        self._unit, self._quiet, self._console = unit, quiet, console or StderrConsole()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: float, all_: float) -> None:
        now = time.monotonic()
        if self._quiet or now - self._began < _AFTER or not done:
            return
        seconds = now - self._began
        left, rate = duration(seconds * (all_ - done) / done), f" · {count(done / seconds)} {self._unit} per second" if seconds else ""
        text = f"{count(done)} of {count(all_)} {self._unit} · {left} left{rate}"
        if self._console.is_terminal:
            if self._bar is None:
                columns = (BarColumn(), TextColumn("{task.fields[text]}"))
                self._bar = Progress(*columns, console=self._console, transient=True, redirect_stdout=False)  # stdout is for results
                self._task = self._bar.add_task("work", total=all_, text=text)
                self._bar.start()
            self._bar.update(self._task, completed=done, total=all_, text=text)
        elif now - self._shown >= _EVERY:
            show_line(self._console, text)
            self._shown = now


class _Forgiving:
    """A text stream whose writes never fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            silence(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            silence(self._stream)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding
