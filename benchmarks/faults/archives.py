"""Archives that name files outside, links, devices and absurd sizes: reading one writes nothing, and ends."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.faults.campaign import TEXT, Tally, command, is_sentence, prepare, reference

NAMES = [
    "../outside",
    "/tmp/outside-of-subquad",
    "a/../../outside",
    "..\\outside",
    "./.",
    "a\0b",
    "a\x1b[31m",
    "-",
    "~/x",
    "a" * 5000,
    "\udc80",
]
KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"Z"]


def run(folder: Path) -> Tally:
    """Scores each archive with a small run."""
    prepare(folder)
    reference(folder)
    tally, log, place = Tally("hostile archives"), folder / "log", folder / "archives"
    place.mkdir()
    for what, suffix, content in _archives([*NAMES, str(folder / "outside")]):
        file = place / f"archive{suffix}"
        file.write_bytes(content)
        before = _files(folder)
        ended = command(["score", str(folder / "reference"), str(file)], log)
        tally.tried += 1
        tally.expect(_files(folder) == before, f"{what} wrote a file")
        tally.expect(ended.status == 0 or is_sentence(ended), f"{what}: status {ended.status}, {ended.output[-300:]}")
        tally.expect("\x1b" not in ended.output, f"{what}: a control sequence reached the terminal")
        file.unlink()
    return tally


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != "log"}


def _archives(names: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """(what it is, the suffix, the bytes)."""
    compressors: dict[str, Callable[[bytes], bytes]] = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.xz": lzma.compress}
    for suffix, compress in compressors.items():
        for name in names:
            yield f"{suffix} with {name[:20]!r}", suffix, compress(_tar(name))
        whole = compress(_tar("member"))
        for cut in (1, 300, len(whole) // 2, len(whole) - 3):
            yield f"{suffix} cut at {cut}", suffix, whole[:cut]
    for kind in KINDS:
        yield f".tar with a member of type {kind!r}", ".tar", _tar("member", kind)
    for size in (b"-0000000001\0", b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12):
        head = bytearray(_tar("member"))
        head[124:136] = size
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head[:512])
        yield f".tar with size {size!r}", ".tar", bytes(head)
    for name in names:
        if "\0" not in name and "\udc80" not in name:
            yield f".zip with {name[:20]!r}", ".zip", _zip(name)
    for cut in (10, 60, -1):
        yield f".zip cut at {cut}", ".zip", _zip("member")[:cut]


def _tar(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    file, form = io.BytesIO(), tarfile.PAX_FORMAT if len(name) > 90 else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "../outside"
        member.size = len(TEXT) if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(TEXT))
    return file.getvalue()


def _zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), TEXT)
    return file.getvalue()
