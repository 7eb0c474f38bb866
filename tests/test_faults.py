"""A few faults of each kind that ``benchmarks/faults`` injects by the hundred."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from benchmarks.faults import archives, damage, file_operations, memory, pages, pickles, signals

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork, and Linux's file operations")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_run_that_a_signal_ended_resumes_to_the_same_weights(number: signal.Signals, tmp_path: Path) -> None:
    tally = signals.run(tmp_path, number, 3)
    assert tally.tried == 3 and tally.wrong == []


@pytest.mark.parametrize("fault", ["kill", "error"])
def test_a_fault_at_any_file_operation_leaves_a_run_that_can_be_finished(fault: file_operations.Fault, tmp_path: Path) -> None:
    tally = file_operations.run(tmp_path, fault, every=97)
    assert tally.tried >= 3 and tally.wrong == []


def test_no_command_answers_from_damaged_files(tmp_path: Path) -> None:
    tally = damage.run(tmp_path, 1)
    assert tally.tried > 10 and tally.wrong == []


def test_no_pickle_runs_code(tmp_path: Path) -> None:
    tally = pickles.run(tmp_path, suffixes=(".pt",))
    assert tally.tried > 50 and tally.wrong == []


def test_no_archive_writes_a_file(tmp_path: Path) -> None:
    tally = archives.run(tmp_path)
    assert tally.tried > 60 and tally.wrong == []


def test_no_page_runs_what_a_label_says(tmp_path: Path) -> None:
    assert pages.run(tmp_path).wrong == []


def test_the_memory_of_a_run_is_flat(tmp_path: Path) -> None:
    assert memory.run(tmp_path, 1000).wrong == []
