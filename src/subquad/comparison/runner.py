"""Runs a comparison: each cell in its own process, so that a cell that fails or is killed leaves the others alone; then writes the results.

``OUT/cells/DATA/MODEL-seedN`` holds a cell. Finished cells are not run again; an interrupted one is resumed from its last checkpoint.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from subquad import manifest
from subquad.comparison.experiment import Experiment, expand_paths, read_experiment
from subquad.comparison.flops_curves import cost_curves
from subquad.comparison.grid import Cell, ResolvedModel, final_cells, rate_cells, resolve
from subquad.comparison.page import write_page
from subquad.comparison.progress import GridProgress
from subquad.comparison.results import RESULTS, CostCurve, Outcome, Published, Results
from subquad.comparison.run_cell import read_outcome, run_cell, waiting_outcome
from subquad.comparison.tables import csv_text
from subquad.config import flatten, parse
from subquad.data.files import check_paths
from subquad.evaluation.throughput import machine
from subquad.objectives.base import Windowing
from subquad.run_folder import check_name, holds_files, resolve_device
from subquad.system import as_json, end_with_parent, lock, write_atomic

EXPERIMENT = "experiment.yaml"
POLL_SECONDS = 1.0  # between looks at the running cells


def compare(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    command: str = "",
    quiet: bool = False,
) -> Results:
    """Runs the cells of an experiment that are not finished and writes results.json, results.csv, charts and report.html to ``out``.

    ``experiment``: a file, or its content. ``command`` is what the report names as repeating it. ``jobs`` cells run at a time, each in its
    own process with an equal share of the threads; with 0 they run one by one in this process. A cell that fails has its error in the
    results. Raises ``ValueError``, before anything runs, for a wrong experiment and for a folder that holds something else, and
    ``KeyboardInterrupt`` when it is interrupted, after saving.
    """
    out = Path(out)
    if jobs < 0:
        raise ValueError(f"jobs must be 1 or more, or 0 to run the cells in this process, got {jobs}")
    if isinstance(experiment, str | Path):
        experiment = read_experiment(experiment)
    elif isinstance(experiment, Mapping):
        experiment = parse(Experiment, experiment)
    models = resolve(experiment)
    for spec in experiment.data.values():
        if not spec.synthetic:
            check_paths(expand_paths([*spec.paths, *(spec.labels.test if spec.labels else ())]))
    final_cells(experiment, models, {})  # errors in it are raised before anything runs
    costs = cost_curves(experiment.costs) if experiment.costs else ()
    with _locked(out, experiment, resume):
        runner = _Runner(experiment, models, out, jobs, GridProgress(quiet))
        try:
            rates = runner.choose_rates(rate_cells(experiment, models))
            cells = final_cells(experiment, models, rates)
            runner.add(cells)
            runner.run([cell for cell in cells if not cell.init])
            runner.run([cell for cell in cells if cell.init])
        except KeyboardInterrupt:
            runner.progress.always_say(f"stopped; all training is saved: resume with the same command and --resume (in {out})")
            raise
        finally:
            runner.progress.stop()
            results = runner.results(command, costs)
            _write(results, out)
    return results


@contextmanager
def _locked(out: Path, experiment: Experiment, resume: bool) -> Iterator[None]:
    """Makes this process the only writer of the comparison in ``out``, new or resumed."""
    check_name(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for the comparison: give another --out")
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(out))
            _prepare_folder(out, experiment, resume)
        except OSError as error:
            raise ValueError(f"cannot write to {out} ({error.strerror}): give another --out") from error
        yield


def _prepare_folder(out: Path, experiment: Experiment, resume: bool) -> None:
    """Writes the experiment into a new folder, or checks that a resumed one has the same."""
    text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()
    if holds_files(out):
        if not (out / EXPERIMENT).is_file():
            raise ValueError(f"{out} is not empty and is not a comparison: give another --out")
        if not resume:
            raise ValueError(f"{out} already holds a comparison: resume it with --resume, or give another --out")
        if read_experiment(out / EXPERIMENT) != experiment:
            raise ValueError(
                f"{out} holds a comparison of another experiment: resume with the experiment and the options, such as --quick, that it was "
                "started with, or give another --out"
            )
    else:
        write_atomic(out / EXPERIMENT, text)


@dataclass
class _RunningCell:
    """A cell and the process that runs it."""

    cell: Cell
    process: BaseProcess


class _Runner:
    """Runs the cells of one comparison and keeps their outcomes."""

    def __init__(self, experiment: Experiment, models: dict[str, ResolvedModel], out: Path, jobs: int, progress: GridProgress) -> None:
        self.experiment, self.models, self.out, self.jobs, self.progress = experiment, models, out, jobs, progress
        self.threads = max(1, torch.get_num_threads() // max(jobs, 1))
        self.outcomes: dict[str, Outcome] = {}
        self._read: set[str] = set()  # the data that a cell has been started on
        self.notes = [f"{name}: {model.note}" for name, model in models.items() if model.note]

    def folder(self, cell: Cell) -> Path:
        """The folder of a cell."""
        return self.out / "cells" / cell.name

    def choose_rates(self, cells: Sequence[Cell]) -> dict[str, float]:
        """Runs the cells that choose learning rates; for each model the rate with the best validation, none where all of them failed."""
        chosen: dict[str, float] = {}
        outcomes = self.run(cells)
        for name in dict.fromkeys(cell.model for cell in cells):
            done = [outcome for outcome in outcomes if outcome.model == name and outcome.status == "done"]
            if not done:
                self.notes.append(f"{name}: every learning rate that was tried failed, so it is the default for its width")
                continue
            best = min(done, key=lambda outcome: (-(outcome.accuracy or 0.0), outcome.loss.get("validation", math.inf)))
            chosen[name] = best.lr
            tried = ", ".join(f"{outcome.lr:g}: {_validation(outcome)}" for outcome in done)
            self.notes.append(f"{name}: learning rate {best.lr:g} by validation ({tried})")
        return chosen

    def add(self, cells: Sequence[Cell]) -> None:
        """Puts cells that have not run into the results, in their order."""
        self.outcomes |= {cell.name: waiting_outcome(cell) for cell in cells}

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Runs the cells that are not finished, and those that failed again; outcomes in the order of the cells."""
        self.add(cells)
        remaining: list[Cell] = []
        for cell in cells:
            outcome = read_outcome(self.folder(cell))
            if outcome is None or outcome.status == "failed":
                remaining.append(cell)
            else:
                self.outcomes[cell.name] = outcome
        self.progress.start(len(cells), len(cells) - len(remaining))
        if self.jobs:
            self._run_in_processes(remaining)
        else:
            for cell in remaining:
                self._finish(cell, run_cell(cell, self.folder(cell), self.experiment.score, self.experiment.probes), 0)
        return [self.outcomes[cell.name] for cell in cells]

    def _run_in_processes(self, remaining: list[Cell]) -> None:
        """Each cell in its own process, ``jobs`` at a time."""
        running: list[_RunningCell] = []
        with _terminated_at_end(running):
            while remaining or running:
                while remaining and len(running) < self.jobs:
                    running.append(self._start(remaining.pop(0)))
                wait([item.process.sentinel for item in running], timeout=POLL_SECONDS)
                for item in [item for item in running if not item.process.is_alive()]:
                    running.remove(item)
                    item.process.join()
                    self._finish(item.cell, read_outcome(self.folder(item.cell)), item.process.exitcode)
                self.progress.update({item.cell.name: self.folder(item.cell) / "run" / "log.jsonl" for item in running})

    def _start(self, cell: Cell) -> _RunningCell:
        threads = int(cell.options.get("threads") or self.threads)
        first = cell.data not in self._read
        self._read.add(cell.data)
        arguments = (cell, self.folder(cell), self.experiment.score, self.experiment.probes, threads, first)
        process = multiprocessing.get_context("spawn").Process(target=run_in_process, args=arguments, name=cell.name)
        with _without_main_module():
            process.start()
        return _RunningCell(cell, process)

    def _finish(self, cell: Cell, outcome: Outcome | None, status: int | None) -> None:
        if outcome is None and status == 0:
            raise KeyboardInterrupt  # the cell was interrupted and has saved: the others save and end too
        failed = replace(waiting_outcome(cell), status="failed", error=f"its process ended with status {status}")
        self.outcomes[cell.name] = outcome or failed
        self.progress.finish_cell(self.outcomes[cell.name])

    def results(self, command: str, costs: tuple[CostCurve, ...]) -> Results:
        """The results so far."""
        experiment = self.experiment
        return Results(
            title=experiment.title,
            about=experiment.about,
            machine=machine(resolve_device(str(flatten(experiment.train).get("device", "auto")))),
            command=command,
            budget=str(experiment.budget) if experiment.budget else "",
            models=tuple(experiment.models),
            data=tuple(experiment.data),
            outcomes=tuple(self.outcomes.values()),
            published=tuple(Published(table.caption, table.columns, table.rows) for table in experiment.published),
            costs=costs,
            notes=tuple(self.notes),
            reference=experiment.reference or "",
        )


def _validation(outcome: Outcome) -> str:
    return f"{outcome.accuracy:.1%}" if outcome.accuracy else f"{outcome.loss.get('validation', math.inf):.3f}"


def run_in_process(
    cell: Cell, folder: Path, windowings: Sequence[Windowing], probes: Sequence[str], threads: int, first: bool = True
) -> None:
    """What a cell's process does. It saves and ends when its parent is gone. The ``first`` cell on its data tells what was left out."""
    end_with_parent()
    logging.getLogger("subquad.data.files").addFilter(_Once() if first else lambda record: False)
    torch.set_num_threads(threads)
    run_cell(cell, folder, windowings, probes)


class _Once(logging.Filter):
    """Lets each message through once: a cell reads its data to train and to test."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.getMessage() not in self._seen
        self._seen.add(record.getMessage())
        return new


@contextmanager
def _without_main_module() -> Iterator[None]:
    """A process that is spawned imports the caller's main module first; a script without ``if __name__ == "__main__"`` would start again.
    Cells need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _terminated_at_end(running: Sequence[_RunningCell]) -> Iterator[None]:
    """However the block ends, SIGTERM too, the processes that are left are asked to save and end, and waited for."""
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for item in running:
            item.process.terminate()
        for item in running:
            item.process.join()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _write(results: Results, out: Path) -> None:
    manifest.replace(out, {RESULTS: as_json(results.record()), "results.csv": csv_text(results).encode()})
    write_page(results, out)
