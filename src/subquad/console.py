"""What people read while a program works: lines and bars on stderr. They never end the work, and nothing in them controls the terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console

from subquad.format import visible
from subquad.system import silence


class StderrConsole(Console):
    """A console on stderr (or ``file``) that goes silent where it cannot be written to: its reader has left, or a log's disk is full."""

    def __init__(self, file: TextIO | None = None) -> None:
        stream: Any = _Forgiving(sys.stderr if file is None else file)
        super().__init__(file=stream, highlight=False)


def show_line(console: Console, text: str) -> None:
    """Prints a text as it is, without markup; what cannot be seen in it is written out."""
    console.print(visible(text, "\n\t"), markup=False, highlight=False, soft_wrap=True)


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
