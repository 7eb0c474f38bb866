"""Progress of a long work: a bar on a terminal, lines elsewhere, nothing for what is short, and never an end of the work."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import subquad
from subquad import api, console
from subquad.console import StderrConsole, WorkProgress
from subquad.inference.checks import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now


def shown(clock: list[float], seconds: list[float], terminal: bool = False, quiet: bool = False) -> str:
    file = io.StringIO()
    with WorkProgress("texts", quiet, Console(file=file, force_terminal=terminal, width=100)) as progress:
        for done, second in enumerate(seconds, 1):
            clock[0] = second
            progress(done, len(seconds))
    return file.getvalue()


def test_a_short_work_shows_nothing(clock: list[float]) -> None:
    assert shown(clock, [0.1, 0.5, 1.9]) == "" == shown([0.0], [])


def test_a_long_work_shows_what_is_left(clock: list[float]) -> None:
    assert shown(clock, [5.0, 12.0, 13.0, 23.0]) == (
        "2 of 4 texts · 12.0 s left · 0.167 texts per second\n4 of 4 texts · 0.0 s left · 0.174 texts per second\n"
    )
    clock[0] = 0.0
    assert "1 of 2 texts · 5.0 s left" in shown(clock, [5.0, 6.0], terminal=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(clock: list[float], terminal: bool) -> None:
    assert shown(clock, [5.0, 12.0, 23.0], terminal, quiet=True) == ""


def test_what_is_printed_meanwhile_goes_to_stdout(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with WorkProgress("texts", console=Console(file=io.StringIO(), force_terminal=True)) as progress:
        clock[0] = 5.0
        progress(1, 2)
        print("a result")
    assert capsys.readouterr().out == "a result\n"


def test_a_reader_that_has_left_ends_nothing(clock: list[float]) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with WorkProgress("texts", console=StderrConsole(Closed())) as progress:
        clock[0] = 60.0
        progress(1, 2)


def test_every_long_function_tells_how_far_it_is() -> None:
    model = subquad.build("hyena-tiny", {"max_len": 64}).eval()
    classifier = subquad.build({"kind": "classifier", "backbone": "hyena-tiny", "classes": ["a", "b"]}).eval()
    regression = subquad.build({"kind": "classifier", "backbone": "hyena-tiny", "problem_type": "regression"}).eval()
    texts = ["a", "bb", "c" * 40]
    calls: dict[str, list[tuple[int, int]]] = {name: [] for name in ("score", "generate", "embed", "classify", "regress", "answer")}

    def following(name: str) -> Progress:
        return lambda done, all_: calls[name].append((done, all_))

    api.score(model, b"x" * 200, progress=following("score"))
    api.generate(model, ["a", "b"], max_bytes=3, progress=following("generate"))
    api.embed(model, texts, progress=following("embed"))
    api.classify(classifier, texts, progress=following("classify"))
    api.answer(model, "synthetic:recall,length=32,examples=20", following("answer"))
    api.regress(regression, texts, progress=following("regress"))
    assert {name: seen[-1] for name, seen in calls.items()} == {
        "score": (200, 200),
        "generate": (6, 6),
        "embed": (3, 3),
        "classify": (3, 3),
        "regress": (3, 3),
        "answer": (20, 20),
    }
    assert all([done for done, _ in seen] == sorted({done for done, _ in seen}) for seen in calls.values())


def test_scoring_many_files_shows_bytes_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from subquad.cli import main

    subquad.save(subquad.build("hyena-tiny", {"max_len": 64}), tmp_path / "run")
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_bytes(b"text " * 20)
    monkeypatch.setattr(console, "_AFTER", 0.0)
    monkeypatch.setattr(console, "_EVERY", 0.0)
    assert main(["score", str(tmp_path / "run"), str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--json"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("200 of 200 bytes · 0.0 s left") and "100 of 200 bytes" in "\n".join(lines)
    assert main(["score", str(tmp_path / "run"), str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
