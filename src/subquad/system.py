"""What needs the operating system: files that are complete or absent after a crash, one writer a folder, children that end with their
parent.

All POSIX-only code is here. On Windows a folder cannot be locked, which is an error in words; the directory entry of a new file is not
synced to disk; and Ctrl-C in a terminal reaches child processes too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
_LOCKED: set[str] = set()  # the folders that this process has locked, by their real paths

Content = bytes | Callable[[Path], None]


def as_json(value: object) -> bytes:
    """A JSON file, indented, with a final newline."""
    return (json.dumps(value, indent=2) + "\n").encode("utf-8")


def write(path: Path, content: Content) -> None:
    """Writes a file, by a function where there is one, and waits until it is on disk."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    sync(path)


def write_atomic(path: Path, content: Content) -> None:
    """Writes a file in a temporary folder beside it and renames it; after a crash the old or the new one is there, whole."""
    with temporary_folder(path.with_name(f".{path.name}.tmp")) as temporary:
        write(temporary / path.name, content)
        (temporary / path.name).replace(path)
    sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Fills a folder under a temporary name and renames it, in place of one that was there; an error leaves nothing behind."""
    old = path.with_name(f".{path.name}.old")
    with temporary_folder(path.with_name(f".{path.name}.tmp")) as temporary:
        fill(temporary)
        sync(temporary)
        if path.exists():
            remove(old)  # of a process that was killed here
            path.replace(old)
        temporary.replace(path)
    sync(path.parent)
    remove(old)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A new folder of that name, removed in the end with all that is still in it.

    One name for each purpose: what a killed process left under it is removed, not piled up. A folder has one writer (``lock``). As the
    folder is new, nothing that is written into it goes through a link that somebody else has put there.
    """
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def silence(stream: TextIO) -> None:
    """Sends what is still in the buffer of a stream, and all that follows, to nowhere: flushing it at the end cannot fail again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class NoLocks(ValueError):
    """A folder that cannot be locked, as its file system or the operating system has no locks."""


@contextmanager
def lock(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Makes this process the only writer of a folder that exists; readers need no lock. ``wait`` waits for another writer to end.

    The folder holds a file ``.lock`` with the id of the process meanwhile. The lock ends with the process, however that ends.
    Raises ``ValueError`` that names the other writer, also for a second time in this process, and ``NoLocks`` where there are no locks.
    """
    path, real = Path(folder, LOCK), os.path.realpath(folder)
    while True:
        with _open_lock(path) as file:
            _acquire(file, Path(folder), wait)
            if not _is_same(file, path):  # removed by the process that had it before
                continue
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            _LOCKED.add(real)
            try:
                yield
            finally:
                _LOCKED.remove(real)
                path.unlink(missing_ok=True)
            return


@contextmanager
def lock_unless_held(folder: str | Path) -> Iterator[bool]:
    """``lock``, but nothing where this process has the folder locked already, and where nobody can lock it, so that nobody has.

    Yields whether this process had it locked already. Raises ``ValueError`` that names another process that is writing there.
    """
    with ExitStack() as stack:
        held = os.path.realpath(folder) in _LOCKED
        if not held:
            with suppress(NoLocks):
                stack.enter_context(lock(folder))
        yield held


def no_link(name: str, flags: int) -> int:
    """An ``opener`` for ``open`` that makes a new file and follows no link, which somebody else may have put there."""
    return os.open(name, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _open_lock(path: Path) -> IO[str]:
    return open(path, "r+", encoding="ascii", opener=no_link)  # not emptied: another process may have its id in it


def _acquire(file: IO[str], folder: Path, wait: bool) -> None:
    if sys.platform == "win32":
        raise NoLocks(f"{folder} cannot be locked, because locks need a POSIX system: use Linux, macOS or WSL to write there")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read() or "of an unknown id"
        raise ValueError(f"{folder} is being written by process {holder}: wait for it, or give another --out") from None
    except OSError as error:
        raise NoLocks(f"{folder} cannot be locked ({error.strerror}): give an --out on a file system that has locks") from error


def _is_same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def end_with_parent() -> None:
    """Asks this process, a child by ``multiprocessing``, to end (SIGTERM) when its parent has gone.

    A separate session keeps the terminal's Ctrl-C from it: the parent receives that, and asks its children to save and end.
    """
    if sys.platform != "win32":
        os.setsid()
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child process"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
