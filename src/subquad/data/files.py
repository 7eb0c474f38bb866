"""From what a user names (files, folders, globs, archives, stdin) to documents: named byte strings that are read when asked for.

A plain file and a member of an uncompressed tar are read in place, opened for the moment of the read, so 100,000 files cost neither
descriptors nor memory. What is compressed, and what comes through a pipe, is unpacked once into one unlinked temporary file that is
memory-mapped. Archives inside archives are bytes like any other.
"""

from __future__ import annotations

import bz2
import errno
import glob
import gzip
import io
import lzma
import mmap
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from subquad.errors import RunError

Bytes: TypeAlias = npt.NDArray[np.uint8]
ACCEPTED = "a file, a folder, a glob such as 'books/*.txt', or - for stdin"

Unpacker: TypeAlias = Callable[[str], io.BufferedIOBase]
_UNPACKERS: dict[str, Unpacker] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile, ".bz2": bz2.BZ2File}
_SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2"}


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
            found = np.fromfile(self.path, dtype=np.uint8, count=stop - start, offset=start)
        except OSError as error:
            raise RunError(f"cannot read {self.path} any more ({error.strerror or error}): put it back and resume") from None
        if len(found) < stop - start:
            raise RunError(f"{self.path} shrank while in use: expected {stop} bytes, got {start + len(found)}; restore it and resume")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """Bytes in memory as a source."""

    values: Bytes

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes start..stop-1."""
        return self.values[start:stop]


class Spool:
    """One unlinked temporary file that holds everything that had to be unpacked, memory-mapped for reading."""

    def __init__(self) -> None:
        self._map: Bytes = np.empty(0, dtype=np.uint8)

    @cached_property
    def _file(self) -> IO[bytes]:
        file = tempfile.TemporaryFile(prefix="subquad-")  # noqa: SIM115 - lives as long as the documents in it
        weakref.finalize(self, file.close)
        return file

    def add(self, stream: IO[bytes] | io.BufferedIOBase, name: str) -> Document:
        """Copies a stream to its end and returns it as a document."""
        offset = self._file.tell()
        shutil.copyfileobj(stream, self._file, 1 << 20)
        self._file.flush()
        return Document(name, self._file.tell() - offset, self, offset)

    @property
    def size(self) -> int:
        """Bytes in it so far."""
        return self._file.tell()

    def append(self, content: bytes) -> None:
        """Adds bytes at its end."""
        self._file.write(content)
        self._file.flush()

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes start..stop-1, as a read-only view of the mapped file."""
        if stop > len(self._map):
            self._map = np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        return self._map[start:stop]


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A named string of ``size`` bytes that lies at ``offset`` in a source.

    ``order``, when given, is a permutation of its positions: byte i of the document is byte ``order[i]`` of what lies there.
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


def open_documents(paths: Sequence[str | Path]) -> tuple[list[Document], int]:
    """All non-empty documents under the paths, sorted by name, and the number of empty ones that were skipped.

    Names are relative to the deepest folder common to the paths, so they do not change with the working directory or when the data
    moves. A member of an archive is ``archive.zip/member``. Names that begin with a dot are skipped, unless given themselves.
    ``ValueError`` says which path is missing or unreadable, or that there are no bytes at all.
    """
    files, base = _find([os.path.expanduser(path) for path in paths])
    spool = Spool()
    documents, empty = [], 0
    for path, size in files.items():
        for document in _documents(path, _name(path, base), size, spool):
            if document.size:
                documents.append(document)
            else:
                empty += 1
    if not documents:
        where = ", ".join(map(str, paths)) or "an empty list of paths"
        found = f"only empty files ({empty})" if empty else "none"
        raise ValueError(f"expected files with bytes in {where}, got {found} (hidden names are skipped): give at least one byte of data")
    documents.sort(key=lambda document: document.name)
    return documents, empty


def _find(paths: Sequence[str]) -> tuple[dict[str, int | None], str]:
    """Absolute path -> size in bytes (None for a pipe) of every file, each once, and the folder that names are relative to."""
    files: dict[str, int | None] = {}
    roots: set[str] = set()
    for path in paths:
        if path == "-":
            files["-"] = None
            continue
        for match in _matches(path):
            absolute = os.path.abspath(match)
            info = os.stat(absolute)
            roots.add(absolute if stat.S_ISDIR(info.st_mode) else os.path.dirname(absolute))
            if stat.S_ISDIR(info.st_mode):
                files.update(_walk(absolute))
            elif stat.S_ISREG(info.st_mode):
                files[absolute] = info.st_size
            elif stat.S_ISFIFO(info.st_mode):
                files[absolute] = None
            else:
                raise ValueError(f"{match!r} is neither a file nor a folder: expected {ACCEPTED}")
    return files, os.path.commonpath(roots) if roots else ""


def check_paths(paths: Sequence[str]) -> None:
    """Raises ``ValueError`` for a path that does not exist, or matches nothing; nothing is read."""
    for path in paths:
        if path != "-":
            _matches(path)


def _matches(path: str) -> list[str]:
    if os.path.exists(path):
        return [path]
    if not glob.has_magic(path):
        raise ValueError(f"{path!r} does not exist: expected {ACCEPTED}")
    matches = [match for match in glob.iglob(path, recursive=True) if os.path.exists(match)]
    if not matches:
        raise ValueError(f"nothing matches {path!r}: expected {ACCEPTED}")
    return matches


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    """Files below a folder with their sizes, one stat each; links are followed, and no folder is entered twice."""
    pending, seen = [folder], set()
    while pending:
        here = pending.pop()
        try:
            info = os.stat(here)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(here) as found:
                entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                elif entry.is_file():
                    yield entry.path, entry.stat().st_size
        except OSError as error:
            raise ValueError(f"cannot read the folder {here!r} ({error.strerror}): expected files that may be read") from None


def _name(path: str, base: str) -> str:
    if path == "-":
        return path
    # A name may hold bytes that are no UTF-8; spelt out, it can be written to any log.
    relative = path[len(base) :].lstrip(os.sep).replace(os.sep, "/")
    return relative.encode("utf-8", "backslashreplace").decode("utf-8")


def _documents(path: str, name: str, size: int | None, spool: Spool) -> Iterator[Document]:
    """The documents of one file: itself, or what it unpacks to."""
    if size is None:
        with _unpacking(path):
            if path == "-":
                yield spool.add(sys.stdin.buffer, name)
            else:
                with open(path, "rb") as pipe:
                    yield spool.add(pipe, name)
        return
    if size and not os.access(path, os.R_OK):
        raise ValueError(f"cannot read {path!r} (permission denied): expected files that may be read")
    suffix = _ends(path)[1]
    if not size:
        yield Document(name, 0, File(path))
    elif suffix == ".tar":
        yield from _tar_in_place(path, name, spool)
    elif suffix == ".zip":
        yield from _zip(path, name, spool)
    elif suffix in _UNPACKERS:
        yield from (_tar_unpacked if is_archive(path) else _unpacked)(path, name, _UNPACKERS[suffix], spool)
    else:
        yield Document(name, size, File(path))


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked into documents named after it, ``name/member``."""
    stem, suffix = _ends(name)
    return suffix in (".tar", ".zip") or (suffix in _UNPACKERS and stem.endswith(".tar"))


def _ends(name: str) -> tuple[str, str]:
    """A name in lower case and its last suffix, short forms of two spelt out."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem + _SHORT.get(suffix, suffix))


def _unpacked(path: str, name: str, unpacker: Unpacker, spool: Spool) -> Iterator[Document]:
    with _unpacking(path), unpacker(path) as stream:
        yield spool.add(stream, name)


def _tar_in_place(path: str, name: str, spool: Spool) -> Iterator[Document]:
    file = File(path)
    with _unpacking(path), tarfile.open(path, "r:") as archive:
        for member in archive:
            inner = _member(member.name)
            if not member.isreg() or inner is None:
                continue
            if member.issparse():
                yield spool.add(_stream(archive, member), f"{name}/{inner}")
            else:
                yield Document(f"{name}/{inner}", member.size, file, member.offset_data)


def _tar_unpacked(path: str, name: str, unpacker: Unpacker, spool: Spool) -> Iterator[Document]:
    with _unpacking(path), unpacker(path) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                inner = _member(member.name)
                if member.isreg() and inner is not None:
                    yield spool.add(_stream(archive, member), f"{name}/{inner}")
        # The checksum of the compressed file comes after the last member.
        while stream.read(1 << 20):
            pass


def _stream(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None, "a regular member has content"
    return stream


def _zip(path: str, name: str, spool: Spool) -> Iterator[Document]:
    with _unpacking(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > shutil.disk_usage(tempfile.gettempdir()).free:
            raise OSError(errno.ENOSPC, "no room")  # a small file may unpack to any size: not a byte of it is written
        for member in members:
            inner = _member(member.filename)
            if not member.is_dir() and inner is not None:
                with archive.open(member) as stream:
                    yield spool.add(stream, f"{name}/{inner}")


def _member(name: str) -> str | None:
    """A member's name without empty parts, or None if any part of it is hidden."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if any(part.startswith(".") for part in parts):
        return None
    return "/".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def _unpacking(path: str) -> Iterator[None]:
    """Turns the ways an archive can be broken into one sentence; RuntimeError is how zipfile says that a password is needed."""
    try:
        yield
    except (EOFError, OSError, RuntimeError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = tempfile.gettempdir()
            raise RunError(f"{where} is full while {path} is unpacked: free some space or set TMPDIR to a larger folder") from None
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"cannot unpack {path} ({reason}): expected an undamaged archive; fetch it again, or drop its suffix "
            "to use its bytes as they are"
        ) from None
