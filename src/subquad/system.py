"""What is asked of the operating system: files that are whole or absent after a crash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

Content = bytes | Callable[[Path], None]


def write_atomic(path: Path, content: Content) -> None:
    """Writes a file under a temporary name in the same folder and renames it; after a crash the old or the new one is there, whole."""
    temporary = temporary_path(path)
    try:
        write(temporary, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Fills a folder under a temporary name and renames it, in place of one that was there; an error leaves nothing behind."""
    temporary, old = temporary_path(path), path.with_name(f".{path.name}.old")
    for leftover in (temporary, old):  # of a process that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        sync(temporary)
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write(path: Path, content: Content) -> None:
    """Writes a file and waits until it is on disk."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    sync(path)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_path(path: Path) -> Path:
    """Where a file or folder is written before it takes its place."""
    # One name for each file: what a killed process left is overwritten, not piled up. A run has one writer.
    return path.with_name(f".{path.name}.tmp")
