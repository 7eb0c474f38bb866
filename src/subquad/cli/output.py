"""What the verbs share in writing results: JSON, trees of figures, and files that are complete or absent."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from subquad.format import visible


def print_json(value: Any) -> None:
    """One JSON document; what JSON lacks, such as a path, becomes a text. What cannot be seen is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    print("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def print_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    """Says on stderr how many inputs were left out, and why each was: a name and a reason."""
    if left_out:
        print(
            f"subquad: {len(left_out)} left out:", *(visible(f"{name}: {reason}") for name, reason in left_out), sep="\n  ", file=sys.stderr
        )


_MOST, _SOME = 8, 3  # a longer list is cut, to its first items


def print_tree(values: Mapping[str, Any], indent: str = "") -> None:
    """``name: value`` lines, the contents of a mapping, or of a list of them, indented below its name."""
    for name, value in values.items():
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            print(f"{indent}{visible(str(name))}:")
            print_tree(value, indent + "  ")
        else:
            print(f"{indent}{visible(str(name))}: {visible(_plain(value))}")


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        shown = value if len(value) <= _MOST else value[:_SOME]
        rest = "" if len(shown) == len(value) else f", ... ({len(value):,} in all, listed by --json)"
        return ", ".join(map(_plain, shown)) + rest or "-"
    return str(value)


def npy(array: Any) -> bytes:
    """A NumPy array as the bytes of a .npy file: ``np.save`` itself asks a file for its position, which a pipe has not."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def check_output(name: str) -> None:
    """Raises ``ValueError`` for a path that no file can be written to, before anything slow has begun; ``-`` is stdout."""
    path = Path(name)
    if name == "-":
        return
    if path.is_dir():
        raise ValueError(f"expected a file to write, got the folder {name!r}: name a file in it")
    folder = path.resolve().parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} to write {path.name!r} in: make it, or name another file")


@contextlib.contextmanager
def replacing(name: str) -> Iterator[IO[bytes]]:
    """A file to write: stdout for ``-``, else what a path leads to.

    A regular file is written under a temporary name beside it, renamed to it at the end and removed if the writing fails; it keeps its
    mode. Links are followed. A pipe or a device is written into.
    """
    check_output(name)
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name).resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _mode(path: Path) -> int:
    """The mode of a file that is there, or what the umask gives a new one, where mkstemp's are for their owner alone."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
