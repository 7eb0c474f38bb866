"""What a search of folders counts and leaves out: each file once, bad entries by name, and what runs have written."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from subquad.data.corpus import Corpus


def names(corpus: Corpus) -> list[str]:
    return [document.name for document in corpus.documents]


def test_a_file_counts_once_by_whatever_names_it_is_reached(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "b.txt").write_bytes(b"text")
    (data / "a link").symlink_to(data / "b.txt")
    (data / "deep/hard").hardlink_to(data / "b.txt")
    (tmp_path / "other").symlink_to(data)
    several: list[list[str | Path]] = [
        [data],
        [data, data],
        [data, data / "a link"],
        [data, tmp_path / "other"],
        [f"{data}/*", f"{data}/b*"],
    ]
    for paths in several:
        assert names(Corpus.open(paths)) == ["b.txt"], paths
    assert Corpus.open([data / "b.txt", data / "deep/hard"]).bytes == 4


def test_a_bad_entry_of_a_folder_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    Path("good").write_bytes(b"text")
    Path("itself").symlink_to("itself")
    Path("nowhere").symlink_to("gone")
    Path("locked").write_bytes(b"secret")
    os.mkfifo("pipe")
    readable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("locked") and readable(path, mode))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        found = Corpus.open(["."])
        matched = Corpus.open(["*"])
    assert names(found) == names(matched) == ["good"]
    assert caplog.messages[0].startswith("5 left out of the data: itself (too many levels of symbolic links), locked (permission denied), ")
    reasons = {"locked": "permission denied", "pipe": "a named pipe", "socket": "a socket", "nowhere": "no such file or directory"}
    for corpus in (found, matched):
        skipped = dict(corpus.skipped)
        assert skipped.keys() == reasons.keys() | {"itself"} and skipped.items() >= reasons.items()
        assert "symbolic links" in skipped["itself"]
        assert [name for name, _ in corpus.record()["skipped"]] == [name for name, _ in corpus.skipped]


@pytest.mark.parametrize(
    ("name", "words"),
    [("itself", "'itself' is a link that leads"), ("nowhere", "'nowhere' is a link that leads"), ("locked", "cannot read 'locked'")],
)
def test_a_bad_file_that_is_named_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("itself").symlink_to("itself")
    Path("nowhere").symlink_to("gone")
    Path("locked").write_bytes(b"secret")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("locked"))
    with pytest.raises(ValueError, match=words):
        Corpus.open([name])


def test_a_folder_of_bad_entries_alone_says_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(ValueError, match=r"got none .* and 1 left out of the data: link \(too many levels"):
        Corpus.open([tmp_path])


def test_folders_that_runs_have_written_are_no_data(tmp_path: Path) -> None:
    written = {
        "runs/first": ("train.yaml", "manifest.json", "log.jsonl", "state/step-1/model.safetensors"),
        "saved": ("config.json", "model.safetensors", "manifest.json"),
        "runs/compared": ("experiment.yaml", "cells/books/model-seed0/outcome.json"),
    }
    for folder, files in written.items():
        for file in files:
            (tmp_path / folder / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / file).write_bytes(b"{}")
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    for paths in ([tmp_path], [f"{tmp_path}/**/*"], [f"{tmp_path}/*"]):
        corpus = Corpus.open(paths)
        assert names(corpus) == ["a.txt", "manifest.json"], paths
        assert sorted(corpus.skipped) == [(folder, "a run folder") for folder in sorted(written)]
    assert names(Corpus.open([tmp_path / "runs/first/log.jsonl"])) == ["log.jsonl"]
    assert len(Corpus.open([tmp_path / "runs/first"]).documents) == 4
    assert len(Corpus.open([f"{tmp_path}/runs/first/*"]).documents) == 4
