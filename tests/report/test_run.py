"""A report holds what the run folder holds, needs nothing but itself, and survives a folder that is not whole."""

from __future__ import annotations

import json
import math
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.errors import RunError
from subquad.report.figures import draw
from subquad.report.passages import LONGEST, characters, coloured, is_binary
from subquad.report.run import learning_curve, write_report
from subquad.run_log import read_run_log
from subquad.sections import Bars, Passage, Table
from tests.report.reading import EVIL, SHOWN, read


def line(kind: str, step: int, **more: object) -> dict[str, object]:
    return {"kind": kind, "step": step, **more}


def measured(kind: str, step: int, bits: float) -> dict[str, object]:
    return line(kind, step, bits_per_byte=bits, bytes=step * 1000, seconds=step * 0.5)


LOG = [measured("train", 10, 5.0), measured("train", 20, 3.0), measured("valid", 20, 3.125), line("sample", 20, text=EVIL)]
LOG += [measured("train", 30, 2.5), measured("valid", 30, 2.75), line("end", 30, reason="finished")]


def write_run(folder: Path) -> Path:
    """A run folder as the trainer leaves it, without a model to load."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": "megabyte", "patch_size": 4}))
    (folder / "train.yaml").write_text("data:\n  paths:\n  - my books/a.txt\nsteps: 30\n")
    (folder / "data.json").write_text(json.dumps({"bytes": 12345, "name": "<i>"}))
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [10, 100]}, "b": {"dtype": "F32", "shape": []}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "a run & <b>")


def passage(data: bytes = b"To be, or not", patch_size: int = 4, first: int = 0) -> Passage:
    return Passage("Surprise", data, np.linspace(0, 9, len(data)).tolist(), patch_size, first, note=f"from {EVIL}")


SECTIONS = (
    passage(),
    Bars("Bits inside", "byte", "bits per byte", [3.0, 2.5, 2.25, 2.0], "How <far>."),
    Table("Labels", ["part", "f1"], [[EVIL, "0.875"]], "Of the best weights."),
)


def test_a_report_holds_figures_curve_sections_samples_and_command(run: Path) -> None:
    path = write_report(run, SECTIONS)
    assert path == run / "report.html"
    page = read(path)
    assert page.headings == [
        "At a glance",
        "Learning curve",
        "Held-out parts",
        "Surprise",
        "Bits inside",
        "Labels",
        "Samples while training",
        "Configuration",
    ]
    for expected in ("1.00k", "30.0 kB", "15.0 s", "2.750", "step 30 · finished", "Step 20, 3.12 bits per byte", "How <far>.", "0.875"):
        assert expected in page.text
    assert page.text.count(SHOWN) >= 3 and "b" not in page.tags
    assert f"subquad train '{run}/train.yaml' --data 'my books/a.txt' --out '{run}-again'" in page.text
    assert '"patch_size": 4' in page.text and "steps: 30" in page.text and "12345" in page.text
    assert page.tags.count("svg") == 2 and not list(run.glob(".*"))
    for name in ("learning_curve", "bits_inside"):
        assert (run / f"{name}.svg").is_file() and (run / f"{name}.png").is_file()


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([8.0, 4.0, 3.0, 2.5, 2.25, 2.0], 4.2),  # the first steps are cut off
        ([8.0, 2.0, 0.5, 0.25, 0.0], 2.1),  # a loss of 0 does not cut off all others
        ([0.5, 0.25, 0.0], 0.2625),
        ([0.5], 0.5275),
        ([0.0, 0.0], 0.055),
    ],
)
def test_the_learning_curve_cuts_off_the_first_steps_alone(run: Path, losses: list[float], expected: float) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(measured("valid", step, loss)) + "\n" for step, loss in enumerate(losses, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes = draw(learning_curve(read_run_log(run), "bits per byte")).axes[0]
    assert axes.get_ylim()[1] == pytest.approx(expected, rel=1e-3)


def test_the_axes_of_the_learning_curve_fit_both_curves(run: Path) -> None:
    """A task is learned at a loss far from that of its answers: both curves are in sight, but for the first steps and rare peaks."""
    train = [8.0, 7.0, *[3.0] * 97, 20.0]
    log = [measured("train", step, loss) for step, loss in enumerate(train, 1)]
    log += [measured("valid", step, loss) for step, loss in ((25, 1.0), (50, 0.5), (75, 0.01), (100, 0.0))]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    bottom, top = draw(learning_curve(read_run_log(run), "bits per answer")).axes[0].get_ylim()
    assert top == pytest.approx(3.15) and bottom < 0.0


def test_a_run_is_told_at_a_glance(run: Path) -> None:
    """When, where and on what it was trained, accuracy as such, and the test part beside the validation part."""
    log = [line("start", 0, steps=30, time="2026-01-02 03:04:05+00:00", machine="a <laptop>, torch 2")]
    log += [measured("train", step, 3.0) for step in (10, 20)]
    log += [measured("valid", step, 2.0) | {"accuracy": share} for step, share in ((10, 0.25), (20, 0.5))]
    simple = {"name": "always <a>", "metric": "accuracy", "value": 0.3125}
    log += [line("end", 20, reason="finished"), measured("test", 20, 2.25) | {"accuracy": 0.375, "baseline": simple}]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    (run / "train.yaml").write_text("optim: {lr: 0.003}\nsteps: 30\nbatch: 8\nseed: 5\ndtype: bfloat16\ndevice: cuda\n")
    (run / "data.json").write_text(json.dumps({"parts": {"train": {"bytes": 9000, "texts": 90}, "valid": {"bytes": 500, "texts": 5}}}))
    page = read(write_report(run, labels={"bits_per_byte": "bits per answer", "accuracy": "accuracy"}))
    assert page.headings == ["At a glance", "Learning curve", "Accuracy", "Held-out parts", "Configuration"]
    for expected in (
        "Validation accuracy50.0%",
        "Validation loss2.000 bits per answer",
        "Test accuracy37.5%",
        "Test loss2.250 bits per answer",
    ):
        assert expected in " ".join(page.text.split()).replace("% ", "%"), expected
    for expected in (
        "2026-01-02 03:04:05+00:00",
        "a <laptop>, torch 2",
        "9.00 kB in 90 texts",
        "learning rate 0.003, steps 30, batch 8, seed 5",
    ):
        assert expected in page.text
    assert "bfloat16, cuda" in page.text and "2.2500" in page.text and (run / "accuracy.svg").is_file()
    assert "test: always <a>–0.3125" in "".join(page.text.split("\n")).replace(" –", "–").replace("– ", "–"), page.text
    assert read_run_log(run).test is not None and read_run_log(run).baseline == ("always <a>", "accuracy", 0.3125)
    with (run / "log.jsonl").open("a") as file:  # a run that goes on has to be tested anew
        file.write(json.dumps(line("resume", 20, machine="a server", time="2027")) + "\n")
    again = read_run_log(run)
    assert again.test is None and again.baseline is None and (again.started, again.machine) == ("2026-01-02 03:04:05+00:00", "a server")


def test_binary_data_is_shown_in_hexadecimal() -> None:
    shown = coloured(Passage("", b"MThd\x00\x00\x00\x06\x00\xff", [1.0] * 10, 4))
    assert [part.face for part in shown] == ["4d", "54", "68", "64", "00", "00", "00", "06", "00", "ff"]
    assert shown[0].hint == "0x4d M: 1.00 bits, byte 1 of 4" and shown[9].hint == "0xff: 1.00 bits, byte 2 of 4"
    assert [part.after for part in shown] == [" "] * 10 and "edge" in shown[4].classes


def test_cr_lf_is_one_line_break() -> None:
    shown = coloured(Passage("", b"a\r\nb\r", [1.0, 2.0, 3.0, 4.0, 5.0]))
    assert [(part.face, part.after) for part in shown] == [("a", ""), ("↵", "\n"), ("b", ""), ("\\x0d", "")]
    assert shown[1].hint == "line break, CR LF: 2.00 + 3.00 = 5.00 bits"


def test_without_matplotlib_the_page_says_how_to_get_figures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = read(write_report(run, SECTIONS))
    assert "pip install 'subquad[report]'" in page.text and "Surprise" in page.headings and "Learning curve" not in page.headings
    assert not list(run.glob("*.svg")) and not list(run.glob("*.png"))


@pytest.mark.parametrize("missing", ["log.jsonl", "train.yaml", "data.json", "model.safetensors"])
def test_a_folder_without_a_file_still_gets_its_report(run: Path, missing: str) -> None:
    (run / missing).unlink()
    page = read(write_report(run))
    text = page.text
    assert ("Learning curve" in page.headings) == (missing != "log.jsonl")
    assert ("--data" in text) == (missing != "train.yaml")
    assert ("Parameters" in text) == (missing != "model.safetensors")


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a run folder with a config\.json"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="run folder"):
        write_report(tmp_path / "absent")
    (tmp_path / "config.json").write_text('{"kind"')
    with pytest.raises(RunError, match="is damaged"):
        write_report(tmp_path)


def test_characters_are_whole_and_stray_bytes_stand_alone() -> None:
    data = "aé你😀".encode() + b"\xff\x80\xc3" + b"\xe4\xbd"
    assert [stop - start for start, stop in characters(data)] == [1, 2, 3, 4, 1, 1, 1, 1, 1]


@given(st.binary(max_size=60), st.integers(1, 5), st.integers(0, 7))
def test_any_bytes_make_a_passage_that_loses_none(data: bytes, patch_size: int, first: int) -> None:
    pieces = list(characters(data))
    assert b"".join(data[start:stop] for start, stop in pieces) == data
    shown = coloured(passage(data, patch_size, first))
    assert len(shown) == (len(data) if is_binary(data) else len(pieces))
    assert all(char.isprintable() or char in "\n\t" for part in shown for char in part.face + part.after + part.hint)
    starts = sum((first + index) % patch_size == 0 for index in range(len(data))) if patch_size > 1 else 0
    marks = sum(bool({"edge", "within"} & set(part.classes.split())) for part in shown)
    assert marks <= starts and (marks == starts or len(shown) < len(data))


def test_a_passage_shows_bits_and_what_cannot_be_seen() -> None:
    shown = coloured(Passage("", "é\n\x00<".encode(), [3.0, 1.0, 8.0, math.inf, 0.0], 2))
    assert shown[0] == ("h4 edge", "é: 3.00 + 1.00 = 4.00 bits, byte 1 of 2", "é", "")
    assert (shown[1].hint, shown[1].face, shown[1].after) == ("line break: 8.00 bits, byte 1 of 2", "↵", "\n")
    assert shown[2] == ("h16 code", "\\x00: inf bits, byte 2 of 2", "\\x00", "")
    with pytest.raises(ValueError, match="5 bytes came with 2 values of bits"):
        coloured(Passage("", b"hello", [0.0, 0.0]))


def test_a_long_passage_is_cut(run: Path) -> None:
    page = read(write_report(run, [passage(b"x" * 5000)]))
    assert "The first 4,096 of 5,000 bytes." in page.text and len(coloured(passage(b"x" * 5000))) == LONGEST


@pytest.mark.parametrize("name", ["report.html", "learning_curve.svg", "learning_curve.png"])
def test_a_full_disk_keeps_the_old_report(run: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_report(run, SECTIONS)
    before = {path: path.read_bytes() for path in run.iterdir()}
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if name in path.name:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(run, SECTIONS[:2])
    assert {path: path.read_bytes() for path in run.iterdir()} == before
