"""A run's log is read whatever happened to it: damaged lines are left out, and steps done twice count once."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from subquad.run_log import read_run_log, stored_parameters
from tests.report.test_run import line, measured, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_damaged_log_lines_are_skipped(run: Path) -> None:
    damaged = [b'{"kind":"train","st', b"\xff\xfe\x00", b"[1]", b"3", b'{"kind":[],"step":1}', b'{"kind":"valid","step":"x"}', b"[" * 5000]
    wrong = [measured("valid", 25, 1.0) | {"bits_per_byte": bad} for bad in (None, "1", True, float("nan"), float("-inf"))]
    damaged += [json.dumps(entry).encode() for entry in wrong]
    damaged += [b'{"kind":"valid","step":26,"bytes":1' + b"0" * 400 + b',"seconds":1,"bits_per_byte":1}', b'{"kind":"sample","step":3}']
    before = read_run_log(run)
    (run / "log.jsonl").write_bytes(b"\n".join(damaged) + b"\n" + (run / "log.jsonl").read_bytes() + b'{"kind":"tr')
    assert read_run_log(run) == before
    assert [point.loss for point in before.valid] == [3.125, 2.75] and before.best == before.valid[1] and before.ended == "finished"


def test_a_resumed_run_counts_its_steps_once(run: Path) -> None:
    again = [line("resume", 20), measured("train", 30, 2.4), measured("valid", 40, 2.3)]
    with (run / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in again)
    record = read_run_log(run)
    assert [(point.step, point.loss) for point in record.train] == [(10, 5.0), (20, 3.0), (30, 2.4)]
    assert [point.step for point in record.valid] == [20, 40] and record.ended is None and [s.step for s in record.samples] == [20]


def test_parameters_come_from_the_header_and_damage_is_no_error(run: Path) -> None:
    weights = run / "model.safetensors"
    assert stored_parameters(weights) == 1001
    for raw in (b"", b"\xff" * 8, struct.pack("<Q", 4) + b"[1]]", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"a":"b"}'):
        weights.write_bytes(raw)
        assert stored_parameters(weights) is None
