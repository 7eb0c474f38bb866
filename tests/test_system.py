"""Files are whole or absent, a folder has one writer, and a child process ends with its parent."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from subquad import system


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the lock of a folder."""
    program = "import sys, time; from subquad.system import lock\nwith lock(sys.argv[1]): print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_the_second_writer_is_told_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        message = f"is being written by process {first.pid}: wait for it, or give another --out"
        with pytest.raises(ValueError, match=message), system.lock(tmp_path):
            pass
        first.communicate()  # ends its input, and so its work
    assert not list(tmp_path.iterdir())
    with system.lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert (tmp_path / ".lock").read_text() == str(first.pid)
        with system.lock(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_writer_may_wait(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        timer = threading.Timer(0.2, first.kill)
        timer.start()
        with system.lock(tmp_path, wait=True):
            assert first.wait(5) == -signal.SIGKILL
        timer.join()


def test_a_lock_file_that_was_removed_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first holder removes the file while a second one has opened it already: the second locks the next file instead."""
    flock, calls = fcntl.flock, 0

    def late(file: object, flags: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            (tmp_path / ".lock").unlink()
        flock(file, flags)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with system.lock(tmp_path):
        assert calls == 2 and (tmp_path / ".lock").read_text() == str(os.getpid())
        with pytest.raises(ValueError, match="is being written"), system.lock(tmp_path):
            pass


def test_where_there_are_no_locks_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, flags: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        message = r"cannot be locked \(No locks available\): give an --out on a file system that has locks"
        with pytest.raises(ValueError, match=message), system.lock(tmp_path):
            pass
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ValueError, match="locks need a POSIX system"), system.lock(tmp_path):
        pass
    system.write_atomic(tmp_path / "file", b"text")
    assert (tmp_path / "file").read_bytes() == b"text"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (tmp_path / "folder").mkdir()
    for name in (".lock", "file", ".file.tmp", ".inner.tmp", ".inner.old"):
        (tmp_path / "folder" / name).symlink_to(other)
    with pytest.raises(OSError, match="Too many levels of symbolic links"), system.lock(tmp_path / "folder"):
        pass
    system.write_atomic(tmp_path / "folder" / "file", b"text")
    system.write_folder(tmp_path / "folder" / "inner", lambda folder: system.write(folder / "file", b"text"))
    system.write_folder(tmp_path / "folder" / "inner", lambda folder: system.write(folder / "file", b"new"))
    assert not other.exists()
    assert not (tmp_path / "folder" / "file").is_symlink() and (tmp_path / "folder" / "inner" / "file").read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [".lock", "file", "inner"]


@pytest.mark.parametrize("leftover", ["file", "folder"])
def test_what_a_killed_process_left_is_removed(leftover: str, tmp_path: Path) -> None:
    if leftover == "file":
        (tmp_path / ".file.tmp").write_bytes(b"half of it")
    else:
        (tmp_path / ".file.tmp").mkdir()
        (tmp_path / ".file.tmp" / "half").write_bytes(b"half of it")
    system.write_atomic(tmp_path / "file", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    program = """
import multiprocessing, sys, time
from subquad.system import end_with_parent

def child():
    end_with_parent()
    print("child", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    time.sleep(60)
"""
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen([sys.executable, str(tmp_path / "program.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"child\n"
        parent.kill()
        assert parent.stdout.read() == b""  # returns when the child, which has the other end, has gone too
