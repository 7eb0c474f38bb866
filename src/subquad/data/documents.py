"""Documents: named byte strings that are read on demand, wherever their bytes are stored.

A plain file is opened only while it is read, so 100,000 files cost neither descriptors nor memory. What had to be unpacked is in one
unlinked temporary file that is memory-mapped.
"""

from __future__ import annotations

import errno
import io
import mmap
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from subquad.errors import RunError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Bytes: TypeAlias = npt.NDArray[np.uint8]

_BUFFER = 1 << 16
_PIECE = 1 << 20
_BETWEEN_CHECKS = 1 << 26  # bytes written before the room on the disk is looked at again
_LEFT = 1 << 27  # bytes that an endless stream leaves free


class Source(Protocol):
    """Bytes that can be read at any place."""

    def read(self, start: int, stop: int) -> Bytes: ...


@dataclass(frozen=True, slots=True)
class File:
    """A file on disk, opened only while it is read."""

    path: str

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes start..stop-1; ``RunError`` if the file has gone or shrunk since it was found."""
        try:
            content = np.fromfile(self.path, dtype=np.uint8, count=stop - start, offset=start)
        except OSError as error:
            raise RunError(f"can no longer read {self.path} ({error.strerror or error}): restore it and resume") from None
        if len(content) < stop - start:
            raise RunError(f"{self.path} shrank while in use: expected {stop} bytes, got {start + len(content)}; restore it and resume")
        return content


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """Bytes in memory as a source."""

    values: Bytes

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes start..stop-1."""
        return self.values[start:stop]


class Refused(ValueError):
    """What is not unpacked, in words for a user."""


def too_large(name: str, most: int) -> Refused:
    """The error for what unpacks to more than ``most`` bytes."""
    return Refused(
        f"{name} unpacks to more than {most:,} bytes, far more than its size, as no usual data does: unpack it yourself, if it is what you "
        "mean, and give the files"
    )


class Spool:
    """One unlinked temporary file that holds everything that had to be unpacked, memory-mapped for reading."""

    def __init__(self) -> None:
        self._map: Bytes = np.empty(0, dtype=np.uint8)

    @cached_property
    def _file(self) -> IO[bytes]:
        file = tempfile.TemporaryFile(prefix="subquad-")  # noqa: SIM115 - lives as long as the documents in it
        weakref.finalize(self, file.close)
        return file

    def add(self, stream: IO[bytes] | io.BufferedIOBase, name: str, most: int | None = None) -> Document:
        """Copies a stream to its end and returns it as a document.

        Raises ``ValueError`` for one of more than ``most`` bytes, and ``OSError`` before the last room on the disk is taken.
        """
        offset = checked = self._file.tell()
        while piece := stream.read(_PIECE):
            self._file.write(piece)
            end = self._file.tell()
            if most is not None and end - offset > most:
                raise too_large(name, most)
            if end - checked >= _BETWEEN_CHECKS:
                self.check_room(0)
                checked = end
        self._file.flush()
        return Document(name, self._file.tell() - offset, self, offset)

    def check_room(self, size: int) -> None:
        """Raises ``OSError`` unless that many bytes fit on the disk, and some are left."""
        if shutil.disk_usage(tempfile.gettempdir()).free < size + (_LEFT if size == 0 else 0):
            raise OSError(errno.ENOSPC, "no room")

    @property
    def size(self) -> int:
        """Bytes in it so far."""
        return self._file.tell()

    def append(self, content: bytes) -> None:
        """Adds bytes at its end."""
        self._file.write(content)

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes start..stop-1, as a read-only view of the mapped file."""
        if stop > len(self._map):
            self._file.flush()
            self._map = np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        return self._map[start:stop]


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A named string of ``size`` bytes at ``offset`` in a source.

    ``order``, when given, is a permutation of its positions: byte i of the document is byte ``order[i]`` there.
    ``marks`` holds, at the same places, what each byte is for (``data/synthetic.py``); None where all are learned and none is an answer.
    """

    name: str
    size: int
    source: Source
    offset: int = 0
    order: npt.NDArray[np.int64] | None = None
    marks: Source | None = None

    def read(self, start: int = 0, stop: int | None = None) -> Bytes:
        """Bytes start..stop-1 (to the end by default) as uint8, perhaps a read-only view; ``ValueError`` outside 0..size."""
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"expected a range inside 0..{self.size} of {self.name}, got {start}..{stop}")
        if self.order is None:
            return self.source.read(self.offset + start, self.offset + stop)
        return self.source.read(self.offset, self.offset + self.size)[self.order[start:stop]]

    def open(self) -> io.BufferedReader:
        """The document as a file to read from."""
        return io.BufferedReader(_Stream(self), _BUFFER)


class _Stream(io.RawIOBase):
    """A document as Python's raw stream."""

    def __init__(self, document: Document) -> None:
        self._document, self._position = document, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._document.size)[whence])
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        start = min(self._position, self._document.size)
        stop = min(start + len(target), self._document.size)
        target[: stop - start] = self._document.read(start, stop).data
        self._position = stop
        return stop - start
