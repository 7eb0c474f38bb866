"""From what a user names (files, folders, globs, archives, stdin) to documents.

A plain file is read in place; what is packed is unpacked (``data/unpack.py``), and data from a pipe goes through a temporary file. Each
file counts once, by whatever names it is reached. What is found in a folder and cannot be read is left out and listed, and so are run
folders; what is named itself and cannot be read is an error.
"""

from __future__ import annotations

import glob
import logging
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from subquad.data.documents import Document, File, Spool
from subquad.data.sets import located
from subquad.data.unpack import is_refused, unpacked, unpacking
from subquad.format import visible

ACCEPTED = "a file, a folder, a glob such as 'books/*.txt', a data set such as tinyshakespeare:, or - for stdin"

# The files that make a folder one that training, saving or comparing has written.
_WRITTEN = (
    {"manifest.json", "train.yaml"},
    {"manifest.json", "config.json", "model.safetensors"},
    {"experiment.yaml", "cells"},
)


class Skipped(NamedTuple):
    """What was found and left out, by its name, and why."""

    name: str
    reason: str


class Found(NamedTuple):
    """Documents that are not empty, sorted by name; the number of empty ones, and what was left out."""

    documents: list[Document]
    empty: int
    skipped: list[Skipped]


def open_documents(paths: Sequence[str | Path], as_given: bool = False) -> Found:
    """All documents under the paths, sorted by name.

    Names are relative to the deepest folder common to the paths, so they do not change with the working directory or when the data
    moves. A member of an archive is ``archive.zip/member``. Names that begin with a dot are skipped, unless given themselves.
    ``as_given``, for results that are listed, names files as the paths do, in the order of the paths, and keeps empty ones.
    A log message says what else was left out. ``ValueError`` says which path is missing or unreadable, or that there are no bytes at all.
    """
    search = _Search()
    for path in paths:
        for one in located(os.path.expanduser(path)):
            search.add(one)
    spool = Spool()
    found: list[tuple[int, str, Document]] = []
    empty = 0
    name_of = search.name_as_given if as_given else search.name
    skipped = [Skipped(name_of(path)[1], reason) for path, reason in search.skipped]
    for path, size in search.files():
        place, name = name_of(path)
        for document in _documents(path, name, size, spool):
            empty += not document.size
            if document.size or as_given:
                found.append((place, document.name, document))
    if not found:
        where = ", ".join(map(str, paths)) or "an empty list of paths"
        what = f"only empty files ({empty})" if empty else "none"
        left_out = f", and {summary_of_skipped(skipped)}" if skipped else ""
        raise ValueError(
            f"expected files with bytes in {where}, got {what} (hidden names are skipped){left_out}: give data that is not empty"
        )
    if skipped:
        logging.getLogger(__name__).warning(visible(summary_of_skipped(skipped)))
    found.sort(key=lambda entry: entry[:2])
    return Found([document for _, _, document in found], empty, skipped)


def summary_of_skipped(skipped: Sequence[Skipped], most: int = 3) -> str:
    """One line that says how much was left out, and names some of it."""
    named = ", ".join(f"{name} ({reason})" for name, reason in skipped[:most])
    return f"{len(skipped)} left out of the data: {named}" + (", ..." if len(skipped) > most else "")


def check_paths(paths: Sequence[str]) -> None:
    """Raises ``ValueError`` for a path that does not exist, or matches nothing; nothing is read."""
    for path in paths:
        for one in located(path):
            if one != "-":
                _matches(one)


class _Search:
    """Files as they are found, each once."""

    def __init__(self) -> None:
        self.skipped: list[Skipped] = []
        self._roots: set[str] = set()  # the folders that names are relative to
        self._given: dict[str, tuple[int, str]] = {}  # from absolute paths to the number of what was given, and to itself
        self._found: dict[tuple[int, int], dict[str, int | None]] = {}  # of a device and an inode: paths, each with its size
        self._entered: set[tuple[int, int]] = set()
        self._written: dict[str, bool] = {}

    def files(self) -> Iterator[tuple[str, int | None]]:
        """The path and the size in bytes, None for a pipe, of each file, by the name that is not a link."""
        for paths in self._found.values():
            path = min(paths, key=lambda path: (os.path.realpath(path) != path, path)) if len(paths) > 1 else next(iter(paths))
            yield path, paths[path]

    def name(self, path: str) -> tuple[int, str]:
        """The name of a file below the deepest folder common to all, and 0: names decide the order."""
        base = self._base
        return 0, path if path == "-" else _spelt_out(path[len(base) :].lstrip(os.sep))

    def name_as_given(self, path: str) -> tuple[int, str]:
        """The name of a file as it was given, or below the folder that was, and the place of what was given."""
        root = path
        while root not in self._given and root != os.path.dirname(root):
            root = os.path.dirname(root)
        place, given = self._given.get(root, (0, root))
        return place, _spelt_out(given if path == root else os.path.normpath(os.path.join(given, path[len(root) :].lstrip(os.sep))))

    @cached_property
    def _base(self) -> str:
        return os.path.commonpath(self._roots) if self._roots else ""

    def add(self, path: str) -> None:
        """Adds what a path names. Raises ``ValueError`` where it is nothing that can be read."""
        if path == "-":
            self._found[-1, -1] = {"-": None}
            self._given.setdefault(path, (len(self._given), path))
            return
        named = os.path.lexists(path)
        for match in _matches(path):
            absolute = os.path.abspath(match)
            self._given.setdefault(absolute, (len(self._given), match))
            try:
                info = os.stat(absolute)
                if not stat.S_ISDIR(info.st_mode) and not os.access(absolute, os.R_OK):
                    raise PermissionError(0, "permission denied")
            except OSError as error:
                if named:
                    raise ValueError(f"cannot read {path!r} ({_reason(error)}): expected {ACCEPTED}") from None
                self._skip(absolute, _reason(error))
                continue
            if not named and (folder := self._folder_of_run(absolute, path)):
                self._skip(folder, "a run folder")
                continue
            if (info.st_dev, info.st_ino) in self._entered:
                continue
            self._roots.add(absolute if stat.S_ISDIR(info.st_mode) else os.path.dirname(absolute))
            if stat.S_ISDIR(info.st_mode):
                self._walk(absolute, named)
            elif stat.S_ISREG(info.st_mode):
                self._keep(absolute, info)
            elif stat.S_ISFIFO(info.st_mode) and named:
                self._found.setdefault((info.st_dev, info.st_ino), {})[absolute] = None
            elif named:
                raise ValueError(f"{match!r} is neither a file nor a folder: expected {ACCEPTED}")
            else:
                self._skip(absolute, _kind(info.st_mode))

    def _walk(self, root: str, named: bool) -> None:
        """Adds the files below a folder, one stat each; links are followed, and no folder is entered twice."""
        pending = [root]
        while pending:
            folder = pending.pop()
            try:
                info = os.stat(folder)
                if (info.st_dev, info.st_ino) in self._entered:
                    continue
                with os.scandir(folder) as scanned:
                    entries = sorted(scanned, key=lambda entry: entry.name)
            except OSError as error:
                if folder == root and named:
                    raise ValueError(f"cannot read the folder {folder!r} ({_reason(error)}): expected readable files") from None
                self._skip(folder, _reason(error))
                continue
            if folder != root and _is_written({entry.name for entry in entries}):
                self._skip(folder, "a run folder")
                continue
            self._entered.add((info.st_dev, info.st_ino))
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir():
                        pending.append(entry.path)
                    else:
                        self._enter(entry)
                except OSError as error:
                    self._skip(entry.path, _reason(error))

    def _enter(self, entry: os.DirEntry[str]) -> None:
        """Adds what is found in a folder and is not one."""
        info = entry.stat()
        if not stat.S_ISREG(info.st_mode):
            self._skip(entry.path, _kind(info.st_mode))
        elif info.st_size and not os.access(entry.path, os.R_OK):
            self._skip(entry.path, "permission denied")
        elif is_refused(entry.name):
            self._skip(entry.path, "an archive of a kind that is not read here: unpack it first")
        else:
            self._keep(entry.path, info)

    def _keep(self, path: str, info: os.stat_result) -> None:
        info = info if info.st_ino else os.stat(path)  # on Windows the entry of a folder does not say
        self._found.setdefault((info.st_dev, info.st_ino), {})[path] = info.st_size

    def _skip(self, path: str, reason: str) -> None:
        skipped = Skipped(path, reason)
        if skipped not in self.skipped:
            self.skipped.append(skipped)

    def _folder_of_run(self, path: str, pattern: str) -> str | None:
        """The folder that a run has written, below the part of a glob without magic, that holds what the glob matches."""
        fixed = os.path.abspath(os.path.dirname(pattern[: _first_magic(pattern)]))
        for folder in (*reversed(Path(path).parents), Path(path)):
            name = str(folder)
            if len(name) > len(fixed) and self._wrote(name):
                return name
        return None

    def _wrote(self, folder: str) -> bool:
        if folder not in self._written:
            self._written[folder] = any(all(os.path.exists(os.path.join(folder, name)) for name in names) for names in _WRITTEN)
        return self._written[folder]


def _is_written(names: set[str]) -> bool:
    return any(written <= names for written in _WRITTEN)


def _first_magic(pattern: str) -> int:
    return min((place for place in map(pattern.find, "*?[") if place >= 0), default=len(pattern))


def _matches(path: str) -> list[str]:
    if os.path.exists(path):
        return [path]
    if os.path.islink(path):
        try:
            os.stat(path)
        except OSError as error:
            raise ValueError(f"{path!r} is a link that leads nowhere ({_reason(error)}): expected {ACCEPTED}") from None
    if not glob.has_magic(path):
        raise ValueError(f"{path!r} does not exist{_here(path)}: expected {ACCEPTED}")
    matches = glob.glob(path, recursive=True)
    if not matches:
        raise ValueError(f"nothing matches {path!r}{_here(path)}: expected {ACCEPTED}")
    return matches


def _here(path: str) -> str:
    """What a path is relative to, which a run that is resumed elsewhere needs to know."""
    return "" if os.path.isabs(path) else f" in {os.getcwd()!r}"


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]


def _kind(mode: int) -> str:
    kinds = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a named pipe", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}
    return kinds.get(stat.S_IFMT(mode), "neither a file nor a folder")


def _spelt_out(path: str) -> str:
    """A path as a name that can be written to any log; it may hold bytes that are not UTF-8."""
    return path.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode("utf-8")


def _documents(path: str, name: str, size: int | None, spool: Spool) -> Iterator[Document]:
    """The documents of one file: itself, or what it unpacks to."""
    if size is None:
        with unpacking(path), nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as pipe:
            yield spool.add(pipe, name)
        return
    document = Document(name, size, File(path))
    if size:
        yield from unpacked(document, path, spool)
    else:
        yield document
