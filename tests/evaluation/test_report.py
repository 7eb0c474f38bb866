"""A report holds what the run folder holds, needs nothing but itself, and survives a folder that is not whole."""

from __future__ import annotations

import json
import re
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.errors import RunError
from subquad.evaluation.markup import escape
from subquad.evaluation.page import counted, duration
from subquad.evaluation.passage import LONGEST, Passage, characters, passage_html
from subquad.evaluation.report import Baseline, Entry, write_comparison, write_report
from subquad.run_log import count_parameters, read_run_log

EVIL = "</pre><script>alert('x')</script>\x00\udcff & \u202e"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects the text, the tags and every attribute, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path | str) -> Reader:
    """Parses a page and asserts what holds for every page: well nested, no script, nothing fetched."""
    source = page.read_text("utf-8") if isinstance(page, Path) else page
    reader = Reader()
    reader.feed(source)
    reader.close()
    assert reader.open == [] and "script" not in reader.tags
    assert not {"link", "img", "iframe", "object", "image", "use"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name in ("src", "href") or name.startswith("on")]
    assert "@import" not in source and re.search(r"url\((?!#)", source) is None
    return reader


def line(kind: str, step: int, **more: object) -> dict[str, object]:
    return {"kind": kind, "step": step, **more}


def measured(kind: str, step: int, bits: float) -> dict[str, object]:
    return line(kind, step, bits_per_byte=bits, bytes=step * 1000, seconds=step * 0.5)


LOG = [measured("train", 10, 5.0), measured("train", 20, 3.0), measured("valid", 20, 3.125), line("sample", 20, text=EVIL)]
LOG += [measured("train", 30, 2.5), measured("valid", 30, 2.75), line("end", 30, reason="finished")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a run & <b>"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": "megabyte", "patch_size": 4}))
    (folder / "train.yaml").write_text("data:\n  paths:\n  - my books/a.txt\nsteps: 30\n")
    (folder / "data.json").write_text(json.dumps({"bytes": 12345, "name": "<i>"}))
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [10, 100]}, "b": {"dtype": "F32", "shape": []}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def passage(data: bytes = b"To be, or not", patch_size: int = 4) -> Passage:
    return Passage(data, np.linspace(0, 9, len(data), dtype=np.float32), patch_size)


def test_a_report_holds_figures_curve_patch_passage_samples_and_command(run: Path) -> None:
    path = write_report(run, passage(), np.array([3.0, 2.5, 2.25, 2.0]), test=2.625)
    assert path == run / "report.html"
    text = read(path).text
    for expected in ("1.00 k", "30.0 kB", "15.0 s", "2.750", "2.625", "step 30 · finished", "Bits by position inside the patch", "Step 20"):
        assert expected in text
    assert "</pre><script>alert('x')</script>\\x00\\xff & \\u202e" in text
    assert f"subquad train '{run}/train.yaml' --data 'my books/a.txt' --out '{run}-again'" in text
    assert '"patch_size": 4' in text and "steps: 30" in text and "12345" in text
    assert (run / "learning_curve.svg").is_file() and (run / "inside_patch.svg").is_file()
    assert not list(run.glob(".*"))


def test_pngs_are_written_only_where_matplotlib_is_installed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_report(run)
    assert (run / "learning_curve.svg").is_file() and not list(run.glob("*.png"))
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    write_report(run)
    assert (run / "learning_curve.png").is_file() and not (run / "inside_patch.png").exists()


@pytest.mark.parametrize("missing", ["log.jsonl", "train.yaml", "data.json", "model.safetensors"])
def test_a_folder_without_a_file_still_gets_its_report(run: Path, missing: str) -> None:
    (run / missing).unlink()
    text = read(write_report(run)).text
    assert ("Learning curve" in text) == (missing != "log.jsonl")
    assert ("--data" in text) == (missing != "train.yaml")
    assert ("Parameters" in text) == (missing != "model.safetensors")


def test_damaged_log_lines_are_skipped(run: Path) -> None:
    damaged = [b'{"kind":"train","st', b"\xff\xfe\x00", b"[1]", b"3", b'{"kind":[],"step":1}', b'{"kind":"valid","step":"x"}', b"[" * 5000]
    wrong = [measured("valid", 25, 1.0) | {"bits_per_byte": bad} for bad in (None, "1", True, float("nan"), float("-inf"))]
    damaged += [json.dumps(entry).encode() for entry in wrong]
    damaged += [b'{"kind":"valid","step":26,"bytes":1' + b"0" * 400 + b',"seconds":1,"bits_per_byte":1}', b'{"kind":"sample","step":3}']
    before = read_run_log(run)
    (run / "log.jsonl").write_bytes(b"\n".join(damaged) + b"\n" + (run / "log.jsonl").read_bytes() + b'{"kind":"tr')
    assert read_run_log(run) == before
    assert [point.bits for point in before.valid] == [3.125, 2.75] and before.best == before.valid[1] and before.ended == "finished"


def test_a_resumed_run_counts_its_steps_once(run: Path) -> None:
    again = [line("resume", 20), measured("train", 30, 2.4), measured("valid", 40, 2.3)]
    with (run / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in again)
    record = read_run_log(run)
    assert [(point.step, point.bits) for point in record.train] == [(10, 5.0), (20, 3.0), (30, 2.4)]
    assert [point.step for point in record.valid] == [20, 40] and record.ended is None and [s.step for s in record.samples] == [20]


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a run folder with a config\.json"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="run folder"):
        write_report(tmp_path / "absent")
    (tmp_path / "config.json").write_text('{"kind"')
    with pytest.raises(RunError, match="is damaged"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        write_comparison(tmp_path / "index.html", [])


def test_parameters_come_from_the_header_and_damage_is_no_error(run: Path) -> None:
    weights = run / "model.safetensors"
    assert count_parameters(weights) == 1001
    for raw in (b"", b"\xff" * 8, struct.pack("<Q", 4) + b"[1]]", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"a":"b"}'):
        weights.write_bytes(raw)
        assert count_parameters(weights) is None


def test_a_comparison_ranks_runs_and_compressors(run: Path) -> None:
    entries = [Entry("MEGABYTE", run, 2.5, EVIL, passage(), parameters=7_000_000), Entry("byte <Transformer>", run, 2.25)]
    baselines = [Baseline("xz -9", 2.94, "the test part alone"), Baseline("xz -9, primed", 2.375)]
    path = write_comparison(run.parent / "out" / "index.html", entries, baselines, title="MEGABYTE & co", intro="<i>", command="make demo")
    reader = read(path)
    places = [reader.text.index(score) for score in ("2.250", "2.375", "2.500", "2.940")]
    assert places == sorted(places)
    for expected in ("7.00 M", "byte <Transformer>", "MEGABYTE & co", "the test part alone", "make demo", "training time (seconds)"):
        assert expected in reader.text
    assert {"index_by_bytes.svg", "index_by_time.svg"} <= {child.name for child in path.parent.iterdir()}


def test_characters_are_whole_and_stray_bytes_stand_alone() -> None:
    data = "aé你😀".encode() + b"\xff\x80\xc3" + b"\xe4\xbd"
    assert [stop - start for start, stop in characters(data)] == [1, 2, 3, 4, 1, 1, 1, 1, 1]


@given(st.binary(max_size=60), st.integers(1, 5), st.integers(0, 7))
def test_any_bytes_make_a_passage_that_loses_none(data: bytes, patch_size: int, first: int) -> None:
    pieces = list(characters(data))
    assert b"".join(data[start:stop] for start, stop in pieces) == data
    source = passage_html(Passage(data, [1.0] * len(data), patch_size, first))
    reader = read(source)
    assert reader.tags.count("span") == len(pieces)
    assert all(char.isprintable() or char in "\n\t" for char in reader.text)
    starts = sum((first + index) % patch_size == 0 for index in range(len(data))) if patch_size > 1 else 0
    marks = len(re.findall(r'class="h\d+ (?:edge|within)', source))
    assert marks <= starts and (marks == starts or len(pieces) < len(data))


def test_a_passage_shows_bits_and_what_cannot_be_seen() -> None:
    source = passage_html(Passage("é\n\x00<".encode(), [3.0, 1.0, 8.0, float("inf"), 0.0], 2))
    assert 'class="h4 edge" title="é: 3.00 + 1.00 = 4.00 bits, byte 1 of 2">é<' in source
    assert 'title="line break: 8.00 bits, byte 1 of 2">↵</span>\n' in source
    assert '"h16 code" title="\\x00: inf bits, byte 2 of 2">\\x00<' in source and ">&lt;<" in source
    assert "The first 4,096 of 5,000 bytes." in passage_html(Passage(b"x" * 5000, [1.0] * 5000))
    assert passage_html(Passage(b"x" * 5000, [1.0] * 5000)).count("<span") == LONGEST
    with pytest.raises(ValueError, match="5 bytes came with 2 bits"):
        Passage(b"hello", [1.0, 2.0])


def test_figures_read_well() -> None:
    assert [counted(n, "B") for n in (0, 999, 1000, 163_840, 999_950, 3.4e6, 1.3e9)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "164 kB",
        "1.00 MB",
        "3.40 MB",
        "1.30 GB",
    ]
    assert [duration(s) for s in (0.25, 59.96, 185, 3600, 7800, 200_000)] == [
        "0.2 s",
        "1 min 0 s",
        "3 min 5 s",
        "1 h 0 min",
        "2 h 10 min",
        "2 d 7 h",
    ]
    assert escape("a<b>\x07'\udcff") == "a&lt;b&gt;\\x07&#x27;\\xff"


@pytest.mark.parametrize("name", ["report.html", "learning_curve.svg"])
def test_a_full_disk_keeps_the_old_report(run: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_report(run)
    before = {path: path.read_bytes() for path in run.iterdir()}
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if name in path.name:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(run, test=1.0)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
