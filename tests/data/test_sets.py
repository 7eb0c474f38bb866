"""Data sets by name: fetched, checked, found, listed; and what cannot be fetched is said."""

from __future__ import annotations

import hashlib
import json
import lzma
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from subquad.cli import main
from subquad.data import sets
from subquad.data.files import open_documents

TEXT = b"It was the best of times.\n" * 40


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Breaking(Quiet):
    """Sends 300 bytes of a file at most, then closes; goes on from where it is asked to."""

    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        start = self.headers["Range"]
        self.asked.append(start)
        first = int(start.removeprefix("bytes=").removesuffix("-")) if start else 0
        content = Path(self.translate_path(self.path)).read_bytes()[first:]
        self.send_response(416 if start and not content else 206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:300])
        self.close_connection = True


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server on loopback, of the folder ``served``."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.txt").write_bytes(TEXT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The files of a set named text/toy; the root is empty."""
    toy: list[dict[str, Any]] = []
    table = {"text/toy": {"about": "a toy", "source": "https://example.org/toy", "licence": "CC0", "files": toy}}
    monkeypatch.setattr(sets, "data_sets", lambda: table)
    monkeypatch.setattr(sets, "RETRIES", 0)
    monkeypatch.setenv("SUBQUAD_DATA", str(tmp_path / "root"))
    return toy


def test_a_download_that_breaks_goes_on_where_it_ended(
    address: str, files: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sets, "_PIECE", 100)
    monkeypatch.setattr(Quiet, "do_GET", Breaking.do_GET)
    monkeypatch.setattr(Quiet, "asked", [], raising=False)
    asked = Quiet.asked  # type: ignore[attr-defined]
    folder = tmp_path / "root" / "text" / "toy"
    files[:] = [{"name": "a.txt", "sha256": sha256(TEXT), "url": f"{address}/a.txt"}]
    for _ in range(3):
        assert main(["data", "fetch", "toy"]) == 1
    assert "could not reach" in capsys.readouterr().err and not (folder / "a.txt").exists()
    assert main(["data", "fetch", "toy"]) == 0 and (folder / "a.txt").read_bytes() == TEXT
    assert asked == [None, "bytes=300-", "bytes=600-", "bytes=900-"] and [path.name for path in folder.iterdir()] == ["a.txt"]
    # What has arrived whole, but was not moved; what has arrived and is of another file; a file that is not pinned begins anew.
    (folder / "a.txt").rename(folder / ".a.txt.part")
    assert main(["data", "fetch", "toy"]) == 0 and (folder / "a.txt").read_bytes() == TEXT
    (folder / "a.txt").unlink()
    (folder / ".a.txt.part").write_bytes(b"x" * 900)
    assert main(["data", "fetch", "toy"]) == 1 and not list(folder.iterdir())
    assert "another file" in capsys.readouterr().err
    files[:] = [{"name": "b.txt", "url": f"{address}/a.txt"}]
    asked.clear()
    for _ in range(2):
        assert main(["data", "fetch", "toy"]) == 1
    assert asked == [None, None]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_fetches_checks_and_packs(address: str, files: list[dict[str, Any]], tmp_path: Path) -> None:
    original = {"size": len(TEXT), "sha256": sha256(TEXT)}
    files += [
        {"name": "a.txt", "size": len(TEXT), "sha256": sha256(TEXT), "url": f"{address}/a.txt"},
        {"name": "b.txt.xz", "sha256": "0" * 64, "url": f"{address}/a.txt", "original": original},
        {"name": "c.txt", "url": f"{address}/a.txt"},
    ]
    folder = sets.fetch("toy")
    assert folder == tmp_path / "root" / "text" / "toy"
    assert lzma.decompress((folder / "b.txt.xz").read_bytes()) == (folder / "c.txt").read_bytes() == TEXT
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt.xz", "c.txt"]
    (folder / "a.txt").write_bytes(b"damaged")
    (tmp_path / "served" / "a.txt").write_bytes(TEXT)
    sets.fetch("text/toy")
    assert (folder / "a.txt").read_bytes() == TEXT
    (folder / "SOURCE.txt").write_text("not data")
    assert [document.name for document in open_documents(["toy:"]).documents] == ["a.txt", "b.txt.xz", "c.txt"]
    assert [document.size for document in open_documents(["text/toy:a.*"]).documents] == [len(TEXT)]


def test_what_cannot_be_fetched_is_said(
    address: str, files: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "megabyte-tiny", "--data", "toy:", "--out", str(tmp_path / "run")]) == 2
    assert "subquad data fetch toy" in capsys.readouterr().err
    files[:] = [{"name": "a.txt", "sha256": "0" * 64, "url": f"{address}/a.txt"}]
    assert main(["data", "fetch", "toy"]) == 1
    assert "another file" in capsys.readouterr().err
    files[:] = [{"name": "a.txt", "sha256": "0" * 64, "url": f"{address}/none.txt"}]
    assert main(["data", "fetch", "toy"]) == 1
    assert f"could not reach {address}/none.txt (status 404)" in capsys.readouterr().err
    files[:] = [{"name": "a.txt", "sha256": "0" * 64}]
    assert main(["data", "fetch", "toy"]) == 1
    assert "make them from https://example.org/toy" in capsys.readouterr().err
    assert main(["data", "path", "toy"]) == 2
    assert "the data set 'toy' is not in" in (said := capsys.readouterr()).err and not said.out
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert main(["data", "fetch", "toys"]) == 2
    assert "there is no data set 'toys'" in capsys.readouterr().err


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json"]) == 0
    table = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"enwik8", "text8", "pg19", "silesia", "bytes/canterbury", "cifar10", "mnist", "ljspeech", "text/pg_books"} <= set(table)
    for row in table.values():
        assert row["source"] and row["licence"] and row["files"]
        for file in row["files"]:
            assert len(file.get("sha256", "0" * 64)) == 64
    assert main(["data", "list", "enwik8"]) == 0
    assert "not pinned" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 or len(line.split()) == 1 for line in lines) and len(lines) >= 3 * len(table)
    assert main(["data"]) == 2
    assert "name what to do: subquad data list, fetch NAME or path NAME" in capsys.readouterr().err
