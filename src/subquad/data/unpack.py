"""What a file holds by the end of its name: members of an archive, what was compressed, or itself.

A member of a tar is read in place. Compressed files, members too, are unpacked once into a temporary file. Archives inside archives are
bytes like any other. The standard library unpacks: the filesystems of fsspec read a compressed tar twice, do not notice its wrong checksum,
and merge members of a zip that have one name. What cannot be read in full is an error, and so is what unpacks to far more than any data
does.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from subquad.data.documents import Document, Refused, Spool, too_large
from subquad.errors import RunError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MOST_TIMES, SMALL = 500, 1 << 28  # packed data is refused beyond both: real logs and tables shrink to a hundredth at best
_ZSTD_PIECE = 1 << 11  # a block of zeros takes 4 bytes and unpacks to 128 kB


def unpacked(document: Document, path: str, spool: Spool) -> Iterator[Document]:
    """The documents of a file that is not empty. Raises ``ValueError`` for a damaged, cut, encrypted or absurd one."""
    suffix = _suffix(path)
    _check_kind(path)
    if suffix not in (".tar", ".zip") and suffix not in DECOMPRESSORS:
        yield document
        return
    packed = document
    with unpacking(path):
        if suffix == ".zip":
            yield from _decompressed(_zip_members(document, spool), document, spool)
            return
        if suffix in DECOMPRESSORS:
            with document.open() as file, DECOMPRESSORS[suffix](file) as stream:
                document = spool.add(stream, document.name, most_bytes(document.size))  # to its end, where the checksum is
        if is_archive(path):
            yield from _decompressed(_tar_members(document, spool), packed, spool)
        else:
            yield document


def _decompressed(members: Iterator[Document], archive: Document, spool: Spool) -> Iterator[Document]:
    """The members of an archive, unpacked where they are compressed; all together are no larger than one file may be."""
    most, before = most_bytes(archive.size), spool.size
    for member in members:
        _check_kind(member.name)
        suffix = _suffix(member.name)
        if suffix not in DECOMPRESSORS or is_archive(member.name) or not member.size:
            yield member
            continue
        try:
            with member.open() as file, DECOMPRESSORS[suffix](file) as stream:
                member = spool.add(stream, member.name, most - (spool.size - before))
        except Refused:
            raise too_large(archive.name, most) from None
        yield member


def _check_kind(name: str) -> None:
    """Raises ``ValueError`` for a file, or a member, that is an archive of a kind that is not read."""
    if is_refused(name):
        raise Refused(
            f"{name} is an archive of a kind that is not read here: unpack it with {_REFUSED[_suffix(name)]} and give the files, or drop "
            "its suffix to use its bytes as they are"
        )


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked into documents named after it, ``name/member``."""
    suffix = _suffix(name)
    return suffix in (".tar", ".zip") or (suffix in DECOMPRESSORS and _spelt_out(name).endswith(".tar" + suffix))


def is_refused(name: str) -> bool:
    """Whether a file of this name is an archive that cannot be read."""
    return _suffix(name) in _REFUSED


def without_compression(name: str) -> str:
    """The name of a file without the suffix of its compression, in lower case."""
    stem, suffix = os.path.splitext(name.lower())
    return stem if suffix in DECOMPRESSORS else name.lower()


def most_bytes(size: int) -> int:
    """What a packed file of that many bytes may unpack to."""
    return max(SMALL, MOST_TIMES * size)


def _suffix(name: str) -> str:
    return os.path.splitext(_spelt_out(name))[1]


def _spelt_out(name: str) -> str:
    """A name in lower case, short forms of two suffixes spelt out."""
    stem, suffix = os.path.splitext(name.lower())
    return stem + _SHORT.get(suffix, suffix)


def _tar_members(document: Document, spool: Spool) -> Iterator[Document]:
    with document.open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
        end = 0
        for member in archive:
            # Sizes may be negative, and then the archive never ends.
            if member.size < 0 or archive.offset <= end or not (member.issparse() or member.offset_data + member.size <= document.size):
                raise tarfile.ReadError(f"its member at byte {member.offset} has an impossible size of {member.size}")
            end = archive.offset
            name = _member_name(member.name)
            if not member.isreg() or name is None:
                continue
            if member.issparse():  # its content is not one piece of the file
                stream = archive.extractfile(member)
                assert stream is not None, "a regular member has content"
                yield spool.add(stream, f"{document.name}/{name}", most_bytes(document.size))
            else:
                yield Document(f"{document.name}/{name}", member.size, document.source, document.offset + member.offset_data)
        _check_end(document, archive.offset)


def _check_end(document: Document, end: int) -> None:
    """A tar ends with blocks of zeros; the library takes a header that is cut or damaged for the end too."""
    if document.read(end, min(end + tarfile.BLOCKSIZE, document.size)).tobytes() != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is cut or damaged at byte {end:,}: the end of the archive is missing")
    for first in range(end, document.size, 1 << 20):
        if document.read(first, min(first + (1 << 20), document.size)).any():
            raise tarfile.ReadError(f"more follows after its end at byte {end:,}, as in joined archives: unpack those with tar -i")


def _zip_members(document: Document, spool: Spool) -> Iterator[Document]:
    with document.open() as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if encrypted := next((member.filename for member in members if member.flag_bits & 1), None):
            raise Refused(f"{document.name} is encrypted ({encrypted!r} needs a password): unpack it and give the files")
        # A small file may unpack to any size: not a byte of it is written.
        size, most = sum(member.file_size for member in members), most_bytes(document.size)
        if size > most:
            raise too_large(document.name, most)
        spool.check_room(size)
        for member in members:
            name = _member_name(member.filename)
            if not member.is_dir() and name is not None:
                with archive.open(member) as stream:
                    yield spool.add(stream, f"{document.name}/{name}", most)


def _member_name(name: str) -> str | None:
    """A member's name without empty parts, or None if any part of it is hidden."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if any(part.startswith(".") for part in parts):
        return None
    return "/".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


class _ZstdFile(io.RawIOBase):
    """What a zstd file unpacks to. The reader of the package takes a file that is cut for one that ends."""

    def __init__(self, file: io.BufferedReader) -> None:
        import zstandard

        self._file, self._context, self._error = file, zstandard.ZstdDecompressor(), zstandard.ZstdError
        self._frame = self._context.decompressobj()
        self._begun, self._packed, self._unpacked = False, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._unpacked:
            self._packed = self._packed or self._file.read(_ZSTD_PIECE)
            if not self._packed:
                if self._begun:
                    raise EOFError("it ends before its end")
                return 0
            try:
                self._unpacked, self._begun = self._frame.decompress(self._packed), True
            except self._error as error:
                raise zlib.error(str(error)) from None
            self._packed = b""
            if self._frame.eof:
                self._packed, self._begun = self._frame.unused_data, False
                self._frame = self._context.decompressobj()
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._unpacked))
        target[:count], self._unpacked = self._unpacked[:count], self._unpacked[count:]
        return count


def _open_zstd(file: io.BufferedReader) -> io.BufferedIOBase:
    return io.BufferedReader(_ZstdFile(file), 1 << 20)


DECOMPRESSORS: dict[str, Callable[[io.BufferedReader], io.BufferedIOBase]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
    ".bz2": bz2.open,
    ".zst": _open_zstd,
}
_SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".tzst": ".tar.zst"}
_REFUSED = {".7z": "7z x", ".rar": "unrar x", ".lz4": "lz4 -d"}


@contextmanager
def unpacking(path: str) -> Iterator[None]:
    """Turns the ways an archive can be broken into one sentence."""
    try:
        yield
    except Refused:
        raise
    except (
        EOFError,
        OSError,
        MemoryError,  # of a size that a header claims
        NotImplementedError,
        OverflowError,
        RuntimeError,  # also of too much recursion, in headers of headers
        ValueError,  # of sizes below 0
        lzma.LZMAError,
        struct.error,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = tempfile.gettempdir()
            raise RunError(f"{where} is full while {path} is unpacked: free some space or set TMPDIR to a larger folder") from None
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"cannot unpack {path} ({reason}): expected an undamaged archive; fetch it again, or drop its suffix "
            "to use its bytes as they are"
        ) from None
