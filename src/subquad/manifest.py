"""The files of a folder with their sha256 in manifest.json: replaced together, compared when they are read.

``replace`` writes the new files into the folder ``.pending``, adds their hashes to the manifest under "replacing", renames the files, and
removes the old hashes. A process that is killed before the hashes are added leaves the old files. One that is killed later leaves the new
files, some perhaps still in ``.pending``: readers look there (``newest``), and the next writer finishes the renames (``settle``). A folder
has one writer at a time (``system.lock``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from subquad.errors import RunError
from subquad.parsing import parse_json, read_text
from subquad.system import Content, as_json, remove, sync, write, write_atomic

MANIFEST, PENDING = "manifest.json", ".pending"
MISSING = "missing"  # in place of the hash of a file that does not exist

T = TypeVar("T")


class Manifest(NamedTuple):
    """The sha256, in hex, of a folder's files by name, and of the files that are replacing some of them."""

    files: dict[str, str]
    replacing: dict[str, str]


def replace(folder: Path, contents: Mapping[str, Content | None]) -> None:
    """Replaces files of a folder together, None removes one: killed at any moment, all of them are the old or all the new ones."""
    hashes, pending = settle(folder), folder / PENDING
    remove(pending)
    pending.mkdir()
    try:
        for name, content in contents.items():
            if content is not None:
                write(pending / name, content)
        sync(pending)
        new = {name: digest_of(pending / name) for name in contents}
        write_manifest(folder, hashes, new)
        for name in contents:
            _move(pending / name, folder / name)
        sync(folder)
        write_manifest(folder, hashes | new)
    except BaseException:
        if not _replacing(folder):
            remove(pending)
        raise
    remove(pending)


def settle(folder: Path) -> dict[str, str]:
    """Finishes a replacement that a killed process left open; returns the hashes of the manifest, none where there is no manifest."""
    if not (folder / MANIFEST).exists():
        return {}
    hashes, replacing = read_manifest(folder)
    if replacing:
        for name in replacing:
            _move(newest(folder, name), folder / name)
        hashes |= {name: digest for name, digest in replacing.items() if digest_of(folder / name) == digest}
        sync(folder)
        write_manifest(folder, hashes)
        remove(folder / PENDING)
    return {name: digest for name, digest in hashes.items() if digest != MISSING}


def newest(folder: Path, name: str) -> Path:
    """The path of the newest version of a file, in ``.pending`` until it is renamed; no file is there if it is to be removed."""
    digest = _replacing(folder).get(name)
    pending = (folder / PENDING / name, folder / f".{name}.tmp")  # the second in folders of 0.1.0
    return next((path for path in pending if digest is not None and digest_of(path) == digest), folder / name)


def check(folder: Path, names: Iterable[str] | None = None) -> None:
    """Compares files with the manifest, all of its files without ``names``; raises ``RunError`` that names what is damaged."""
    wanted = None if names is None else list(names)

    def compare() -> None:
        damaged = damaged_files(folder, wanted)
        if gone := [name for name in damaged if not newest(folder, name).exists()]:
            raise RunError(f"{', '.join(str(folder / name) for name in gone)} is missing, but {MANIFEST} lists it: restore it from a copy")
        if damaged:
            raise RunError(
                f"{', '.join(str(folder / name) for name in damaged)} is damaged: its sha256 differs from {MANIFEST}; "
                "restore it from a copy, or skip the check in Python with subquad.load(path, verify=False)"
            )

    read_while_written(folder, compare)


def damaged_files(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """The files, of these or of all in the manifest, that are not what it says; raises ``RunError`` without a manifest."""
    files, replacing = read_manifest(folder)
    return [
        name
        for name in (files if names is None else names)
        if digest_of(newest(folder, name)) not in (files.get(name), replacing.get(name))  # the old file counts until it is renamed
    ]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; raises ``RunError`` when it is missing or unreadable."""
    path = folder / MANIFEST
    if not path.exists():
        raise RunError(f"{folder} has no {MANIFEST}, so its files cannot be checked: in Python, load(path, verify=False) skips the check")
    values = read_mapping(path)
    files, replacing = values.get("files"), values.get("replacing", {})
    if not (isinstance(files, dict) and isinstance(replacing, dict) and all(map(_is_inside, replacing))):
        raise RunError(
            f"{path} is damaged: expected an object 'files' of names and sha256; in Python, load(path, verify=False) skips the check"
        )
    return Manifest(files, replacing)


def write_manifest(folder: Path, files: Mapping[str, str], replacing: Mapping[str, str] | None = None) -> None:
    """Writes the manifest of a folder: the hashes of its files, and of the files that are replacing some of them."""
    values = {"files": {name: digest for name, digest in sorted(files.items()) if digest != MISSING}}
    if replacing:
        values["replacing"] = dict(sorted(replacing.items()))
    write_atomic(folder / MANIFEST, as_json(values))


def read_mapping(path: Path) -> dict[str, Any]:
    """What a JSON file of an object holds; raises ``RunError`` for any other."""
    try:
        values = parse_json(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}): restore it from a copy") from error
    if not isinstance(values, dict):
        raise RunError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def digest_of(path: Path) -> str:
    """The sha256 of a file in hex, ``MISSING`` for one that does not exist."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return MISSING


def read_while_written(folder: Path, read: Callable[[], T]) -> T:
    """What ``read`` returns, tried again when it fails and files were replaced meanwhile: a run that is still training does that."""
    while True:
        before = _inodes(folder)
        try:
            return read()
        except RunError:
            if _inodes(folder) == before:
                raise


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the folder itself: files are renamed and removed by name, which must not lead elsewhere."""
    return Path(name).name == name and not name.startswith(".")


def _replacing(folder: Path) -> dict[str, str]:
    try:
        return read_manifest(folder).replacing
    except RunError:  # a folder that is loaded without the check may have no manifest, or a damaged one
        return {}


def _inodes(folder: Path) -> dict[str, int]:
    """Which file each name of a folder is, down to those that are pending."""
    inodes: dict[str, int] = {}
    for place in (folder, folder / PENDING):
        with suppress(OSError):  # there is no such folder, or no longer
            inodes |= {entry.path: entry.inode() for entry in os.scandir(place)}
    return inodes


def _move(source: Path, target: Path) -> None:
    if source.exists():
        source.replace(target)
    else:
        target.unlink(missing_ok=True)
