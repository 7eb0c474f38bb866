"""Results go where their path leads: through links, into pipes, and into files that keep their mode."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from subquad.cli.output import check_output, replacing


def write(path: Path | str) -> None:
    with replacing(str(path)) as file:
        file.write(b"new")


def test_a_link_is_followed_and_the_mode_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write(link)
    assert link.is_symlink() and target.read_bytes() == b"new" and target.stat().st_mode & 0o777 == 0o640
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(5)
    assert read == [b"new"] and pipe.is_fifo()


def test_a_device_stays() -> None:
    write(os.devnull)
    assert Path(os.devnull).is_char_device()


def test_a_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"expected a file to write, got the folder '{tmp_path}'"):
        check_output(str(tmp_path))


def test_a_dash_is_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write("-")
    assert capfdbinary.readouterr().out == b"new"
