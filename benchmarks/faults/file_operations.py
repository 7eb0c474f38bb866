"""A kill or a disk error at every file operation of a run: it is then finished with the weights of an undisturbed one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from benchmarks.faults.campaign import Tally, command, finish, is_sentence, prepare, reference, start, weights

Fault = Literal["kill", "error"]
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def run(folder: Path, fault: Fault, every: int = 1) -> Tally:
    """Injects a fault at each ``every``-th operation on the files of a run."""
    prepare(folder)
    tally, expected = Tally(f"{'SIGKILL' if fault == 'kill' else 'disk error'} at a file operation"), reference(folder)
    out, last = folder / "run", count(folder)
    for place in range(1, last + 1, every):
        ended = command(start(folder, out), folder / "log", _Faults(out, place, fault).watch)
        tally.tried += 1
        fine = ended.status == -signal.SIGKILL if fault == "kill" else ended.status == 0 or is_sentence(ended)
        tally.expect(fine, f"operation {place}: status {ended.status}, {ended.output[-300:]}")
        again = finish(folder, out)
        tally.expect(again.status == 0, f"operation {place}: not finished afterwards, {again.output[-300:]}")
        if again.status == 0:
            tally.expect(weights(out) == expected, f"operation {place}: other weights")
            tally.expect(not (rest := leftovers(out)), f"operation {place}: left {rest}")
        shutil.rmtree(out, ignore_errors=True)
    return tally


def count(folder: Path) -> int:
    """How many operations the undisturbed run does."""
    out, log, file, faults = folder / "counted", folder / "log", folder / "count", _Faults(folder / "counted")
    if command(start(folder, out), log, faults.watch, lambda: file.write_text(str(faults.seen))).status != 0:
        raise SystemExit(log.read_text())
    return int(file.read_text())


class _Faults:
    """Counts the operations of a process on the files below a folder, and injects the fault at number ``place``."""

    def __init__(self, out: Path, place: int | None = None, fault: Fault = "kill") -> None:
        self.root, self.place, self.fault, self.seen = str(out), place, fault, 0

    def watch(self) -> None:
        """Begins to watch this process."""
        fsync = os.fsync

        def synced(handle: int) -> None:
            self._operation(None)
            fsync(handle)

        mock.patch.object(os, "fsync", synced).start()  # of which the interpreter tells nobody
        sys.addaudithook(self._audit)

    def _operation(self, path: object) -> None:
        self.seen += 1
        if self.seen == self.place:
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and self._is_inside(path):
                self._operation(path)
        elif event in EVENTS:
            in_folder = event in ("os.remove", "os.rmdir") and arguments[-1] != -1  # of a tree that is removed, by its name in its folder
            if in_folder or self._is_inside(arguments[0]):
                self._operation(arguments[0])

    def _is_inside(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.root)


def leftovers(out: Path) -> list[str]:
    """Temporary files that a finished run still has. An empty folder is none: where the disk refused to remove it, nothing else can be."""
    temporary = [path for path in out.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")]
    return [str(path.relative_to(out)) for path in temporary if not path.is_dir() or any(path.iterdir())]
