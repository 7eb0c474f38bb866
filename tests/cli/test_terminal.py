"""Whatever becomes of the standard streams, a command does its work; nothing that it prints controls the terminal or cannot be printed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from subquad.cli import main
from subquad.cli.output import print_json, print_tree
from tests.cli.test_end_to_end import CONFIG, TEXT

SUBQUAD = [sys.executable, "-m", "subquad"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "text.txt").write_bytes(TEXT)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return folder


def training(folder: Path, name: str, redirected: str) -> subprocess.CompletedProcess[bytes]:
    """A training in a shell that redirects its streams."""
    command = f'"$0" -m subquad train config.yaml --data text.txt --out {name} {redirected}'
    return subprocess.run(["bash", "-o", "pipefail", "-c", command, sys.executable], cwd=folder, capture_output=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "redirected", "status"),
    [
        ("reader-left", "2>&1 >/dev/null | true", 0),
        ("reader-leaves", "2>&1 | head -1", 141),  # of which training itself sees nothing: stdout has no reader at its end
        ("closed", "<&- >&- 2>&-", 0),
        ("closed-stderr", "2>&-", 0),
        pytest.param("full", "2>/dev/full", 0, marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")),
    ],
)
def test_progress_that_nobody_reads_ends_no_training(name: str, redirected: str, status: int, folder: Path) -> None:
    ended = training(folder, name, redirected)
    assert b"Traceback" not in ended.stdout + ended.stderr
    assert ended.returncode == status
    assert (folder / name / "model.safetensors").is_file() and (folder / name / "report.html").is_file()


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_alone_shows_every_name(folder: Path) -> None:
    (folder / "ünï\x1b[31mcode.txt").write_bytes(TEXT)
    assert main(["train", str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--out", str(folder / "run"), "--quiet"]) == 0
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for name in ("ünï\x1b[31mcode.txt", "no-ünï\x1b[31mcode.txt"):
        ended = subprocess.run([*SUBQUAD, "score", "run", name], cwd=folder, capture_output=True, env=environment, timeout=60)
        printed = ended.stdout + ended.stderr
        assert b"Traceback" not in printed and b"\x1b" not in printed and b"\\x1b[31mcode" in printed and b"n\\xef" in printed


@pytest.mark.slow
def test_results_go_to_any_name_and_runs_to_one_that_is_utf8(folder: Path) -> None:
    """No shell and no file system asks whether a name is UTF-8."""
    assert main(["train", str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--out", str(folder / "any"), "--quiet"]) == 0
    (folder / "short.txt").write_bytes(TEXT[:8])
    for verb, *words in (
        (b"embed", b"any", b"short.txt", b"-o", b"v\xff.npy"),
        (b"generate", b"any", b"--max-bytes", b"5", b"--out", b"g\xff"),
        (b"score", b"any", b"text.txt", b"--bits-out", b"b\xff.npy"),
    ):
        ended = subprocess.run([*SUBQUAD, verb, *words], cwd=folder, capture_output=True, timeout=60)
        assert ended.returncode == 0 and os.path.getsize(os.fsencode(folder) + b"/" + words[-1]) > 0, ended.stderr
    train = [b"train", b"config.yaml", b"--data", b"text.txt", b"--out", b"r\xff"]
    ended = subprocess.run([*SUBQUAD, *train], cwd=folder, capture_output=True, timeout=60)
    assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1 and b"r\\xff is not UTF-8" in ended.stderr
    assert b"r\xff" not in os.listdir(os.fsencode(folder))


def test_json_is_whole_and_controls_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a\x1b[31m": 'b\x9b31m\u202e\ud800é\n"'}
    print_json(value)
    text = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in text) and "é" in text
    assert yaml.safe_load(text.replace("\\ud800", "")) == {"a\x1b[31m": 'b\x9b31m\u202eé\n"'}
    print_tree({"name\x1b[0m": "value\x07", "inner": {"\x1b": 1}})
    assert "\x1b" not in (text := capsys.readouterr().out) and "name\\x1b[0m: value\\x07" in text


@pytest.mark.slow
def test_a_sample_controls_no_terminal(folder: Path) -> None:
    assert main(["train", str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--out", str(folder / "tty"), "--quiet"]) == 0
    reader, terminal = pty.openpty()
    command = [*SUBQUAD, "generate", "tty", "--max-bytes", "200", "--temperature", "5"]
    ended = subprocess.run(command, cwd=folder, stdout=terminal, stderr=subprocess.PIPE, timeout=60)
    os.close(terminal)
    shown = os.read(reader, 10_000)
    os.close(reader)
    assert ended.returncode == 0 and len(shown) > 200
    assert all(byte in b"\r\n\t" or 0x20 <= byte != 0x7F for byte in shown)


def test_a_long_list_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_tree({"short": list("abcdefgh"), "long": list("abcdefghi"), "none": []})
    assert capsys.readouterr().out.splitlines() == [
        "short: a, b, c, d, e, f, g, h",
        "long: a, b, c, ... (9 in all, listed by --json)",
        "none: -",
    ]
