"""A kill or a disk error at every file operation of a run: it is then finished with the weights of an undisturbed one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

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
        ended = command(start(folder, out), folder / "log", lambda place=place: watch(out, place, fault))  # type: ignore[misc]
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
    out, log, file = folder / "counted", folder / "log", folder / "count"

    def counting() -> None:
        seen, leave = watch(out, None, "kill"), os._exit

        def noting(status: int) -> None:
            file.write_text(str(seen()))
            leave(status)

        os._exit = noting  # type: ignore[assignment]

    if command(start(folder, out), log, counting).status != 0:
        raise SystemExit(log.read_text())
    return int(file.read_text())


def watch(out: Path, place: int | None, fault: Fault) -> Callable[[], int]:
    """Counts the operations of this process on the files below ``out``, and injects the fault at number ``place``."""
    seen, root = [0], str(out)

    def operation(path: object) -> None:
        seen[0] += 1
        if seen[0] == place:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and not isinstance(path, int) and os.fsdecode(path).startswith(root):
                operation(path)
        elif event in EVENTS:
            path = arguments[0]
            inside = not isinstance(path, int) and os.fsdecode(path).startswith(root)
            if inside or (event in ("os.remove", "os.rmdir") and arguments[-1] != -1):  # of a tree that is removed, named in its folder
                operation(path)

    fsync = os.fsync

    def synced(handle: int) -> None:
        operation(None)
        fsync(handle)

    os.fsync = synced  # type: ignore[assignment]
    sys.addaudithook(audit)
    return lambda: seen[0]


def leftovers(out: Path) -> list[str]:
    """Temporary files that a finished run still has."""
    return [str(path.relative_to(out)) for path in out.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")]
