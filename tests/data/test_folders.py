"""Folders of classes: the same texts from a folder and from any archive of it, what lies beside them, and inputs that are wrong."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from subquad.data.documents import Spool
from subquad.data.labelled import Example, read_labelled
from subquad.errors import RunError

TEXTS = {f"{label}/{number}.txt": f"{label} {number}\n".encode() for label in ("neg", "pos") for number in range(20)}


def write(folder: Path, texts: dict[str, bytes] = TEXTS) -> str:
    for name, content in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def pack(path: Path, texts: dict[str, bytes] = TEXTS) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in texts.items():
            archive.writestr(name, content)
    return str(path)


def test_a_text_has_the_class_of_its_folder_in_the_order_of_paths(tmp_path: Path) -> None:
    parts = read_labelled([write(tmp_path)], fractions=(1, 0, 0))
    names = sorted(TEXTS)
    assert parts.train == [Example(TEXTS[name], name.split("/")[0]) for name in names] and parts.classes == ("neg", "pos")


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar"])
@pytest.mark.parametrize("top", ["", "reviews/"])
def test_an_archive_is_split_as_its_folder_is(tmp_path: Path, kind: str, top: str) -> None:
    folder = write(tmp_path / "folder", {top + name: content for name, content in TEXTS.items()})
    archive = shutil.make_archive(str(tmp_path / "packed"), kind, folder)
    expected, found = (read_labelled([path], fractions=(0.7, 0.2, 0.1), seed=3) for path in (folder, archive))
    assert (found.train, found.valid, found.test) == (expected.train, expected.valid, expected.test)
    assert found.fingerprint == expected.fingerprint and len(found.valid) == 8


def test_the_order_in_an_archive_does_not_matter(tmp_path: Path) -> None:
    turned = pack(tmp_path / "turned.zip", dict(reversed(TEXTS.items())))
    assert read_labelled([turned]).fingerprint == read_labelled([write(tmp_path / "folder")]).fingerprint


def test_class_folders_can_be_named_one_by_one_and_held_out(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train", TEXTS | {"unsup/0.txt": b"?"}), pack(tmp_path / "test.zip")
    parts = read_labelled([f"{train}/neg", f"{train}/pos"], valid=[test], test=[test])
    assert parts.classes == ("neg", "pos") and parts.train == parts.valid == parts.test
    assert read_labelled([f"{train}/[np]*"], valid=[test]).train == parts.train
    with pytest.raises(ValueError, match="a text of the valid part has the label 'unsup', expected one of neg, pos"):
        read_labelled([test], valid=[train])


def test_what_lies_beside_the_classes_is_no_text(tmp_path: Path) -> None:
    beside = {"README": b"two classes", "urls.txt": b"x", "pos/.hidden": b"x", "__MACOSX/pos/._0.txt": b"x"}
    expected = read_labelled([write(tmp_path / "bare")]).fingerprint
    assert read_labelled([write(tmp_path / "folder", TEXTS | beside)]).fingerprint == expected
    assert read_labelled([pack(tmp_path / "a.zip", TEXTS | beside)]).fingerprint == expected


def test_names_that_climb_out_of_an_archive_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = pack(tmp_path / "inner" / "a.zip", TEXTS | {"../pos/x.txt": b"x", "/neg/y.txt": b"y"})
    parts = read_labelled([path], fractions=(1, 0, 0))
    assert [example for example in parts.train if example.text in (b"x", b"y")] == [Example(b"y", "neg")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["inner"] and [entry.name for entry in (tmp_path / "inner").iterdir()] == [
        "a.zip"
    ]


def test_an_archive_larger_than_the_room_there_is_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.zip", {"pos/a.txt": bytes(10**6), "neg/a.txt": bytes(10**6)})
    room = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: room)
    monkeypatch.setattr(Spool, "add", lambda *arguments: pytest.fail("something was unpacked"))
    with pytest.raises(RunError, match=r"is full while .*a\.zip is unpacked"):
        read_labelled([path])


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"a.txt": b"x", "b.txt": b"y"}, r"a\.txt is not a table by its name, and is not in the folder of a class"),
        ({"pos/a.txt": b"x", "pos/b.txt": b"y"}, r"all 2 texts for training have the label 'pos', expected two classes or more"),
        ({"pos/a.txt": b"x", "neg/a.txt": b""}, r"all 1 texts for training have the label 'pos'"),
        ({"pos/a.txt": b"x", "pos/old/b.txt": b"y", "neg/a.txt": b"z"}, r"pos/a\.txt is beside a single folder with files, 'old'"),
        ({"README": b"x", "pos/b.txt": b"y"}, r"README is beside a single folder with files, 'pos'"),
        (
            {"pos/a.txt": b"x", "neg/a.txt": b"y", "a.tsv": b"text\tlabel\n"},
            r"neg/a\.txt is not a table by its name, but other files are",
        ),
        ({"pos/a.txt": b"", "neg/a.txt": b""}, r"expected files with bytes in .*, got only empty files \(2\)"),
        ({}, r"expected files with bytes in .*, got none"),
    ],
)
def test_wrong_folders_are_refused_in_a_sentence(tmp_path: Path, texts: dict[str, bytes], sentence: str) -> None:
    (tmp_path / "folder").mkdir()
    for path in (write(tmp_path / "folder", texts), pack(tmp_path / "a.zip", texts)):
        with pytest.raises(ValueError, match=sentence):
            read_labelled([path])


def test_a_damaged_archive_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = Path(pack(tmp_path / "a.zip"))
    content = bytearray(path.read_bytes())
    for place, damaged in (("short", content[:-30]), ("turned", content[:40] + bytes([content[40] ^ 255]) + content[41:])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot unpack .*a\.zip .*expected an undamaged archive"):
            pytest.fail(f"{place}: {read_labelled([str(path)])}")


def test_one_class_is_enough_where_all_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"pos/a.txt": b"x", "pos/b.txt": b"y"})
    assert read_labelled([path], classes=["neg", "pos"], fractions=(1, 0, 0)).classes == ("neg", "pos")
