"""Archives that are cut, absurd or of other kinds: each is refused in one sentence, without endless work and before a disk is full."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from subquad.data import documents, unpack
from subquad.data.corpus import Corpus


def tar(members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def refused(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        Corpus.open([path])
    assert "\n" not in str(caught.value)


TEXTS = {"a.txt": b"a" * 700, "b.txt": b"b" * 900, "c.txt": b"c" * 10}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_that_is_cut_anywhere_is_an_error(tmp_path: Path, pack: type[bytes]) -> None:
    whole = tar(TEXTS)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # where the blocks of zeros begin
    suffix = ".tar" if pack is bytes else ".tar.gz"
    for cut in (*range(1, end, 173), 512, 1536, end - 512, end, end + 100):
        refused(tmp_path / f"x{suffix}", pack(whole[:cut]), "cannot unpack .*expected an undamaged archive")
    for cut in (end + 512, end + 1024, len(whole)):
        (tmp_path / f"x{suffix}").write_bytes(pack(whole[:cut]))
        assert len(Corpus.open([tmp_path / f"x{suffix}"]).documents) == 3


def test_a_damaged_header_in_the_middle_is_an_error(tmp_path: Path) -> None:
    whole = bytearray(tar(TEXTS))
    whole[1536 + 3] ^= 0xFF  # in the name of the second member
    refused(tmp_path / "x.tar", bytes(whole), "is cut or damaged at byte 1,536")


def test_joined_tars_are_not_read_as_the_first_of_them(tmp_path: Path) -> None:
    refused(tmp_path / "x.tar", tar(TEXTS) + tar(TEXTS), "more follows after its end .* tar -i")


@pytest.mark.parametrize("size", [b"-0000001000\0", b"-0000002000\0", b"77777777777\0", b"\xff" * 12, b"\x80" + b"\x7f" * 11])
@pytest.mark.parametrize("kind", [b"0", b"x", b"L"])
def test_a_member_of_an_absurd_size_ends_at_once(tmp_path: Path, size: bytes, kind: bytes) -> None:
    whole = bytearray(tar(TEXTS))
    header = whole[1536:2048]
    header[124:136], header[156:157] = size, kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole[1536:2048] = header
    refused(tmp_path / "x.tar", bytes(whole), "cannot unpack")


def test_headers_of_headers_without_end_are_an_error(tmp_path: Path) -> None:
    long_name = tar({"n" * 200: b""}, tarfile.GNU_FORMAT)[:1024]
    refused(tmp_path / "x.tar", long_name * 3000, "cannot unpack")


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".tar.gz"])
def test_what_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "SMALL", 1 << 20)
    content = bytes(1 << 22) if suffix != ".tar.gz" else tar({"a": bytes(1 << 22)})
    packed = zstandard.ZstdCompressor().compress(content) if suffix == ".zst" else gzip.compress(content)
    refused(tmp_path / f"x{suffix}", packed, r"unpacks to more than [\d,]+ bytes, far more than its size")


def test_a_zip_that_unpacks_to_far_more_than_its_size_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "SMALL", 1 << 20)
    monkeypatch.setattr(documents.Spool, "add", lambda *arguments: pytest.fail("something was unpacked"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1 << 22))
    refused(tmp_path / "x.zip", buffer.getvalue(), r"unpacks to more than [\d,]+ bytes, far more than its size")


def test_zstd_frames_are_joined_and_a_cut_one_is_an_error(tmp_path: Path) -> None:
    frames = b"".join(zstandard.ZstdCompressor().compress(text * 1000) for text in (b"one", b"two"))
    (tmp_path / "x.zst").write_bytes(frames)
    (document,) = Corpus.open([tmp_path / "x.zst"]).documents
    assert document.read().tobytes() == b"one" * 1000 + b"two" * 1000
    for cut in (1, 5, len(frames) - 1):
        refused(tmp_path / "y.zst", frames[:cut], "cannot unpack")


@pytest.mark.parametrize(("name", "command"), [("x.7z", "7z x"), ("x.RAR", "unrar x"), ("x.lz4", "lz4 -d")])
def test_other_archives_are_refused_with_the_remedy(tmp_path: Path, name: str, command: str) -> None:
    refused(tmp_path / name, b"packed", f"unpack it with {command}")
    (tmp_path / "a.txt").write_bytes(b"text")
    corpus = Corpus.open([tmp_path])
    assert [document.name for document in corpus.documents] == ["a.txt"]
    assert [(name, "unpack it first" in reason) for name, reason in corpus.skipped] == [(name, True)]
