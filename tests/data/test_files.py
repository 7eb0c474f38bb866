"""Documents: the same bytes from plain files, archives and pipes; sorted, named by place, cheap in number; errors in one sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import zstandard

from subquad.data import documents, unpack
from subquad.data.corpus import Corpus
from subquad.data.documents import Spool
from subquad.errors import RunError

ARCHIVES = ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2", "X.TAR.GZ", "x.tgz", "x.txz", "x.tar.zst", "x.tzst"]
TEXTS = {"a.txt": b"alpha" * 300, "deep/b.bin": bytes(range(256)) * 40, "deep/er/c.txt": b"\x00"}


def write(folder: Path, texts: dict[str, bytes] = TEXTS) -> Path:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return folder


def contents(corpus: Corpus) -> dict[str, bytes]:
    return {document.name: document.read().tobytes() for document in corpus.documents}


def pack(folder: Path, path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*"), reverse=True):
                archive.write(file, file.relative_to(folder))
        return path
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname=".")
    path.write_bytes(compress(buffer.getvalue(), path.suffix))
    return path


def compress(text: bytes, suffix: str) -> bytes:
    match suffix.lower():
        case ".zst" | ".tzst":
            return bytes(zstandard.ZstdCompressor(write_checksum=True).compress(text))
        case ".gz" | ".tgz":
            return gzip.compress(text)
        case ".xz" | ".txz":
            return lzma.compress(text)
        case ".bz2":
            return bz2.compress(text)
        case _:
            return text


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_holds_the_same_documents_as_the_folder(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "folder", {**TEXTS, ".hidden": b"no", "deep/.git/no": b"no", "void": b""})
    path = pack(folder, tmp_path / name)
    corpus = Corpus.open([path])
    assert contents(corpus) == {f"{name}/{inner}": text for inner, text in TEXTS.items()}
    assert corpus.empty == 1
    middle = corpus.documents[1]
    assert middle.read(5, 300).tobytes() == TEXTS["deep/b.bin"][5:300]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_compressed_members_are_unpacked_and_archives_in_archives_are_bytes(tmp_path: Path, name: str) -> None:
    inner = pack(write(tmp_path / "inner", {"a": b"text"}), tmp_path / "inner.zip").read_bytes()
    packed = {f"log.txt{suffix}": compress(b"a line\n" * 1000, suffix) for suffix in (".gz", ".xz", ".bz2", ".zst")}
    path = pack(write(tmp_path / "folder", {**packed, "inner.zip": inner}), tmp_path / name)
    assert contents(Corpus.open([path])) == {f"{name}/{file}": b"a line\n" * 1000 for file in packed} | {f"{name}/inner.zip": inner}
    path = pack(write(tmp_path / "cut", {"log.txt.gz": packed["log.txt.gz"][:-9]}), tmp_path / f"cut-{name}")
    with pytest.raises(ValueError, match=f"cannot unpack .*cut-{name}"):
        Corpus.open([path])


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_member_of_a_kind_that_is_not_read_is_refused_as_a_file_is(tmp_path: Path, name: str) -> None:
    path = pack(write(tmp_path / "folder", {"a.txt": b"text", "deep/b.7z": b"packed"}), tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}/deep/b\.7z is an archive of a kind that is not read here: unpack it with 7z x"):
        Corpus.open([path])


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_what_members_unpack_to_is_limited_together(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone is small enough, and both are more than a file of the archive's size may hold."""
    monkeypatch.setattr(unpack, "MOST_TIMES", 1)
    monkeypatch.setattr(unpack, "SMALL", 1 << 20)
    members = {f"{number}.xz": compress(bytes(600_000), ".xz") for number in range(2)}
    path = pack(write(tmp_path / "folder", {"0.xz": members["0.xz"]}), tmp_path / f"one-{name}")
    assert [document.size for document in Corpus.open([path]).documents] == [600_000]
    path = pack(write(tmp_path / "folder", members), tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} unpacks to more than 1,048,576 bytes"):
        Corpus.open([path])


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar, which writes sparse members")
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_sparse_member_is_read_with_its_holes(tmp_path: Path, name: str) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "plain").write_bytes(b"plain")
    packed = subprocess.run(["tar", "--sparse", "-cf", "-", "holes", "plain"], cwd=tmp_path, check=True, capture_output=True).stdout
    (tmp_path / name).write_bytes(compress(packed, Path(name).suffix))
    assert contents(Corpus.open([tmp_path / name])) == {f"{name}/holes": bytes(1 << 20) + b"end", f"{name}/plain": b"plain"}


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
def test_a_compressed_file_is_one_document(tmp_path: Path, suffix: str) -> None:
    text = os.urandom(1 << 19) + bytes(1 << 20)
    packed = compress(text, suffix)
    corpus = Corpus.open([write(tmp_path, {f"t{suffix}": packed, f"u{suffix}": packed})])
    assert contents(corpus) == {f"t{suffix}": text, f"u{suffix}": text}


def test_a_folder_is_sorted_without_hidden_names_and_empty_files(tmp_path: Path) -> None:
    write(tmp_path, {**TEXTS, ".hidden": b"no", ".git/config": b"no", "empty": b"", "deep/empty": b""})
    corpus = Corpus.open([tmp_path])
    assert list(contents(corpus).items()) == sorted(TEXTS.items())
    assert (corpus.empty, corpus.bytes) == (2, sum(map(len, TEXTS.values())))


def test_names_depend_neither_on_where_the_data_lies_nor_on_how_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two" / "three")
    monkeypatch.chdir(second)
    opened = [
        Corpus.open([first]),
        Corpus.open([second]),
        Corpus.open(["."]),
        Corpus.open([first / "deep", first / "a.txt", first]),
        Corpus.open([f"{first}/**/*"]),
        Corpus.open([f"{first}/*", f"{first}/a*"]),
        Corpus.open([str(first)]),
    ]
    assert len({corpus.fingerprint for corpus in opened}) == 1
    assert all(contents(corpus) == TEXTS for corpus in opened)
    write(second, {"a.txt": b"longer" * 300})
    assert Corpus.open([second]).fingerprint != opened[0].fingerprint


def test_a_name_that_looks_like_a_glob_or_is_hidden_can_be_given(tmp_path: Path) -> None:
    write(tmp_path, {"a[1].txt": b"one", "a1.txt": b"two", ".hidden": b"three"})
    assert contents(Corpus.open([tmp_path / "a[1].txt"])) == {"a[1].txt": b"one"}
    assert contents(Corpus.open([tmp_path / ".hidden"])) == {".hidden": b"three"}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "data", {"a/x": b"x"})
    write(tmp_path / "elsewhere", {"y": b"y"})
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/broken").symlink_to(tmp_path / "nowhere")
    assert contents(Corpus.open([tmp_path / "data"])) == {"a/x": b"x", "linked/y": b"y"}


def test_stdin_and_named_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xffpiped")))
    corpus = Corpus.open(["-", write(tmp_path) / "a.txt"])
    assert contents(corpus) == {"-": b"\xffpiped", "a.txt": TEXTS["a.txt"]}


def test_names_that_are_not_utf8_are_spelt_out(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    corpus = Corpus.open([tmp_path])
    assert contents(corpus) == {"\\udcff": b"x"}
    assert corpus.fingerprint


def test_two_thousand_files_cost_no_descriptors(tmp_path: Path) -> None:
    write(tmp_path, {f"{index % 20}/{index}": b"%d" % index for index in range(2000)})
    started = time.perf_counter()
    corpus = Corpus.open([tmp_path])
    assert time.perf_counter() - started < 2
    assert sum(int(document.read().tobytes()) for document in corpus.documents) == 1999 * 1000
    if os.path.isdir("/proc/self/fd"):
        before = len(os.listdir("/proc/self/fd"))
        again = Corpus.open([tmp_path])
        again.documents[0].read()
        assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["nowhere"], "'nowhere' does not exist in '/.*': expected a file, a folder, a glob"),
        (["a.txt", "gone/*.txt"], "nothing matches 'gone/\\*.txt'"),
        ([], "an empty list of paths, got none"),
        (["void"], "void, got only empty files \\(2\\)"),
        (["hidden"], "hidden, got none"),
        (["/dev/null"], "neither a file nor a folder"),
    ],
)
def test_wrong_paths_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], words: str) -> None:
    monkeypatch.chdir(write(tmp_path, {"a.txt": b"a", "void/1": b"", "void/2.gz": b"", "hidden/.x": b"x"}))
    with pytest.raises(ValueError, match=words) as caught:
        Corpus.open(paths)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.gz", "x.xz", "x.bz2", "x.zst"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "nonsense"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = write(tmp_path / "folder", {"a.txt": os.urandom(20_000)})
    path = pack(folder, tmp_path / name)
    whole = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        # A plain tar has no checksum of its contents, only of its headers.
        whole[20 if name == "x.tar" else len(whole) // 2] ^= 0xFF
        path.write_bytes(whole)
    else:
        path.write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(ValueError, match=f"cannot unpack .*{name}") as caught:
        Corpus.open([path])
    assert "\n" not in str(caught.value)


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    path = pack(write(tmp_path / "folder"), tmp_path / "x.zip")
    raw = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(signature)
        while at >= 0:
            raw[at + flags] |= 1
            at = raw.find(signature, at + 1)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x\.zip is encrypted \(.* needs a password\): unpack it and give the files"):
        Corpus.open([path])


def test_a_file_that_goes_or_shrinks_while_in_use_is_a_failed_run(tmp_path: Path) -> None:
    document = Corpus.open([write(tmp_path) / "a.txt"]).documents[0]
    (tmp_path / "a.txt").write_bytes(b"short")
    with pytest.raises(RunError, match="shrank while in use"):
        document.read(0, 100)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(RunError, match="can no longer read"):
        document.read(0, 100)


def test_a_full_temporary_folder_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(write(tmp_path / "folder"), tmp_path / "x.tar.gz")

    def full(spool: Spool, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(documents, "_BETWEEN_CHECKS", 1)
    monkeypatch.setattr(Spool, "check_room", full)
    with pytest.raises(RunError, match="is full .* TMPDIR"):
        Corpus.open([path])


def test_a_document_refuses_a_range_outside(tmp_path: Path) -> None:
    document = Corpus.open([write(tmp_path) / "a.txt"]).documents[0]
    for start, stop in ((-1, 3), (4, 3), (0, document.size + 1)):
        with pytest.raises(ValueError, match="expected a range inside"):
            document.read(start, stop)
    assert document.read(7, 7).size == 0
