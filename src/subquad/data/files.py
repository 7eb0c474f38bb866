"""From what a user names (files, folders, globs, archives, stdin) to documents.

A plain file and a member of a tar are read in place. Compressed files, and data from a pipe, are unpacked once into a
temporary file. Archives inside archives are bytes like any other. The standard library unpacks: the filesystems of fsspec read a
compressed tar twice, do not notice its wrong checksum, and merge members of a zip that have one name.
"""

from __future__ import annotations

import bz2
import errno
import glob
import gzip
import io
import lzma
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from subquad.data.documents import Document, File, Spool
from subquad.errors import RunError

ACCEPTED = "a file, a folder, a glob such as 'books/*.txt', or - for stdin"

_DECOMPRESSORS: dict[str, Callable[[io.BufferedReader], io.BufferedIOBase]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2"}


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
        what = f"only empty files ({empty})" if empty else "none"
        raise ValueError(f"expected files with bytes in {where}, got {what} (hidden names are skipped): give data that is not empty")
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
        current = pending.pop()
        try:
            info = os.stat(current)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(current) as scanned:
                entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda entry: entry.name)
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                elif entry.is_file():
                    yield entry.path, entry.stat().st_size
        except OSError as error:
            raise ValueError(f"cannot read the folder {current!r} ({error.strerror}): expected readable files") from None


def _name(path: str, base: str) -> str:
    if path == "-":
        return path
    # A name may hold bytes that are not UTF-8; spelt out, it can be written to any log.
    relative = path[len(base) :].lstrip(os.sep).replace(os.sep, "/")
    return relative.encode("utf-8", "backslashreplace").decode("utf-8")


def _documents(path: str, name: str, size: int | None, spool: Spool) -> Iterator[Document]:
    """The documents of one file: itself, or what it unpacks to."""
    if size is None:
        with _unpacking(path), nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as pipe:
            yield spool.add(pipe, name)
        return
    if size and not os.access(path, os.R_OK):
        raise ValueError(f"cannot read {path!r} (permission denied): expected readable files")
    document = Document(name, size, File(path))
    if size:
        with _unpacking(path):
            yield from _unpacked(document, path, spool)
    else:
        yield document


def _unpacked(document: Document, path: str, spool: Spool) -> Iterator[Document]:
    """What a file of bytes is by the end of its path: a member of it each, what was compressed, or itself."""
    suffix = _suffix(path)
    if suffix == ".zip":
        yield from _zip_members(document, spool)
        return
    if suffix in _DECOMPRESSORS:
        with document.open() as file, _DECOMPRESSORS[suffix](file) as stream:
            document = spool.add(stream, document.name)  # to its end, where the checksum is
    if is_archive(path):
        yield from _tar_members(document, spool)
    else:
        yield document


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked into documents named after it, ``name/member``."""
    suffix = _suffix(name)
    return suffix in (".tar", ".zip") or (suffix in _DECOMPRESSORS and _spelt_out(name).endswith(".tar" + suffix))


def _suffix(name: str) -> str:
    return os.path.splitext(_spelt_out(name))[1]


def _spelt_out(name: str) -> str:
    """A name in lower case, short forms of two suffixes spelt out."""
    stem, suffix = os.path.splitext(name.lower())
    return stem + _SHORT.get(suffix, suffix)


def _tar_members(document: Document, spool: Spool) -> Iterator[Document]:
    with document.open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            name = _member_name(member.name)
            if not member.isreg() or name is None:
                continue
            if member.issparse():  # its content is not one piece of the file
                stream = archive.extractfile(member)
                assert stream is not None, "a regular member has content"
                yield spool.add(stream, f"{document.name}/{name}")
            else:
                yield Document(f"{document.name}/{name}", member.size, document.source, document.offset + member.offset_data)


def _zip_members(document: Document, spool: Spool) -> Iterator[Document]:
    with document.open() as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > shutil.disk_usage(tempfile.gettempdir()).free:
            raise OSError(errno.ENOSPC, "no room")  # a small file may unpack to any size: not a byte of it is written
        for member in members:
            name = _member_name(member.filename)
            if not member.is_dir() and name is not None:
                with archive.open(member) as stream:
                    yield spool.add(stream, f"{document.name}/{name}")


def _member_name(name: str) -> str | None:
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
