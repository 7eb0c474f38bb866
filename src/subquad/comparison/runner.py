"""Runs the grid: every cell in its own process, so that one that fails or is killed does not affect the others; then the tables.

``OUT/cells/TEXT/MODEL-seedN`` holds a cell. Finished cells are never run again; an interrupted run continues from its last checkpoint.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml

from subquad.comparison.experiment import Experiment, found_paths, read_experiment
from subquad.comparison.flops_curves import cost_curves
from subquad.comparison.grid import Cell, Resolved, final_cells, rate_cells, resolve
from subquad.comparison.page import write_page
from subquad.comparison.progress import GridProgress
from subquad.comparison.results import CostCurve, Outcome, Published, Results
from subquad.comparison.run_cell import execute, read_outcome, waiting
from subquad.comparison.tables import csv_text
from subquad.config import parse
from subquad.data.files import check_paths
from subquad.evaluation.throughput import machine
from subquad.objectives.base import Windowing
from subquad.run_folder import holds_files
from subquad.system import as_json, end_with_parent, lock, write_atomic

EXPERIMENT = "experiment.yaml"
LOOK = 1.0  # seconds between looks at the running cells


def compare(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    command: str = "",
    quiet: bool = False,
) -> Results:
    """Runs what is left of an experiment in the folder ``out`` and writes results.json, results.csv, charts and report.html there.

    ``experiment``: a file, or what is in one. ``command`` is told in the report as what repeats it.
    ``jobs`` cells run at a time, each in its own process, and share the processor's cores; 0 runs them one by one in this process.
    Raises ``ValueError`` before anything runs for an experiment that cannot
    be and for a folder that holds something else, ``RunError`` when it was interrupted. A cell that fails is told of in the results.
    """
    out = Path(out)
    if jobs < 0:
        raise ValueError(f"jobs must be 0 or more, got {jobs}")
    if isinstance(experiment, str | Path):
        experiment = read_experiment(experiment)
    elif isinstance(experiment, Mapping):
        experiment = parse(Experiment, experiment)
    models = resolve(experiment)
    for spec in experiment.data.values():
        if not spec.synthetic:
            check_paths(found_paths([*spec.paths, *(spec.labels.test if spec.labels else ())]))
    final_cells(experiment, models, {})  # whatever cannot be is told before anything runs
    costs = cost_curves(experiment.costs) if experiment.costs else ()
    with _claimed(out, experiment, resume):
        grid = _Grid(experiment, models, out, jobs, GridProgress(quiet))
        try:
            rates = grid.choose(rate_cells(experiment, models))
            finals = final_cells(experiment, models, rates)
            grid.expect(finals)
            for begun in (False, True):  # cells that start from other cells come after these
                grid.run([cell for cell in finals if bool(cell.begin) == begun])
        except KeyboardInterrupt:
            grid.watch.tell(f"stopped; all training is saved: resume with the same command and --resume (in {out})")
            raise
        finally:
            grid.watch.end()
            results = grid.results(command, costs)
            _write(results, out)
    return results


@contextmanager
def _claimed(out: Path, experiment: Experiment, resume: bool) -> Iterator[None]:
    """The folder, for this process alone."""
    _claim(out, experiment, resume)
    with lock(out):
        yield


def _claim(out: Path, experiment: Experiment, resume: bool) -> None:
    """Makes the folder and puts the experiment there, or finds the same one in it."""
    text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for the comparison: give another --out")
    if holds_files(out):
        if not (out / EXPERIMENT).is_file():
            raise ValueError(f"{out} is not empty and is not a comparison: give another --out")
        if not resume:
            raise ValueError(f"{out} already holds a comparison: resume it with --resume, or give another --out")
        if read_experiment(out / EXPERIMENT) != experiment:
            raise ValueError(
                f"{out} holds a comparison of another experiment: resume it with that experiment's file, or give another --out"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / EXPERIMENT, text)
    except OSError as error:
        raise ValueError(f"cannot write to {out} ({error.strerror}): give another --out") from error


@dataclass
class _Running:
    """A cell and the process that works on it."""

    cell: Cell
    process: BaseProcess


class _Grid:
    """The cells of one comparison and where they stand."""

    def __init__(self, experiment: Experiment, models: dict[str, Resolved], out: Path, jobs: int, watch: GridProgress) -> None:
        self.experiment, self.models, self.out, self.jobs, self.watch = experiment, models, out, jobs, watch
        self.threads = max(1, (os.cpu_count() or 1) // max(jobs, 1))
        self.known: dict[str, Outcome] = {}
        self.notes = [f"{name}: {model.note}" for name, model in models.items() if model.note]

    def folder(self, cell: Cell) -> Path:
        """Where a cell lives."""
        return self.out / "cells" / cell.name

    def choose(self, cells: Sequence[Cell]) -> dict[str, float]:
        """Runs the cells that choose learning rates: the rate of the best validation for each model, whatever worked at all."""
        chosen: dict[str, float] = {}
        outcomes = self.run(cells)
        for name in dict.fromkeys(cell.model for cell in cells):
            done = [o for o in outcomes if o.model == name and o.status == "done"]
            tried = {o.lr: (-(o.accuracy or 0.0), o.loss.get("validation", math.inf)) for o in done}
            if not tried:
                self.notes.append(f"{name}: no learning rate that was tried worked, so it is the default for its width")
            else:
                chosen[name] = min(tried, key=lambda lr: tried[lr])
                found = ", ".join(f"{lr:g}: {f'{-wrong:.1%}' if wrong else f'{loss:.3f}'}" for lr, (wrong, loss) in tried.items())
                self.notes.append(f"{name}: learning rate {chosen[name]:g} by validation ({found})")
        return chosen

    def expect(self, cells: Sequence[Cell]) -> None:
        """Puts cells into the results, in their order, before they run."""
        self.known |= {cell.name: waiting(cell) for cell in cells}

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Runs those that are not finished; outcomes in the order of the cells."""
        self.expect(cells)
        left: list[Cell] = []
        for cell in cells:
            outcome = read_outcome(self.folder(cell))
            if outcome is None or outcome.status == "failed":
                left.append(cell)
            else:
                self.known[cell.name] = outcome
        self.watch.begin(len(cells), len(cells) - len(left))
        if self.jobs:
            self._run_apart(left)
        for cell in left if not self.jobs else ():
            self._finish(cell, execute(cell, self.folder(cell), self.experiment.score, self.experiment.probes), 0)
        return [self.known[cell.name] for cell in cells]

    def _run_apart(self, left: list[Cell]) -> None:
        """Each cell in its own process, ``jobs`` at a time."""
        running: list[_Running] = []
        with _stopping(running):
            while left or running:
                while left and len(running) < self.jobs:
                    running.append(self._start(left.pop(0)))
                wait([one.process.sentinel for one in running], timeout=LOOK)
                for one in [one for one in running if not one.process.is_alive()]:
                    running.remove(one)
                    one.process.join()
                    self._finish(one.cell, read_outcome(self.folder(one.cell)), one.process.exitcode)
                self.watch.look({one.cell.name: self.folder(one.cell) / "run" / "log.jsonl" for one in running})

    def _start(self, cell: Cell) -> _Running:
        threads = int(cell.options.get("threads") or self.threads)
        arguments = (cell, self.folder(cell), self.experiment.score, self.experiment.probes, threads)
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, name=cell.name)
        process.start()
        return _Running(cell, process)

    def _finish(self, cell: Cell, outcome: Outcome | None, status: int | None) -> None:
        if outcome is None and status == 0:
            raise KeyboardInterrupt  # somebody stopped the cell: it has saved, and so do the others
        self.known[cell.name] = outcome or replace(waiting(cell), status="failed", error=f"its process ended with status {status}")
        self.watch.done(self.known[cell.name])

    def results(self, command: str, costs: tuple[CostCurve, ...]) -> Results:
        """Everything that is known now."""
        experiment = self.experiment
        return Results(
            title=experiment.title,
            about=experiment.about,
            machine=machine(),
            command=command,
            budget=str(experiment.budget) if experiment.budget else "",
            models=tuple(experiment.models),
            data=tuple(experiment.data),
            outcomes=tuple(self.known.values()),
            published=tuple(Published(one.caption, one.columns, one.rows) for one in experiment.published),
            costs=costs,
            notes=tuple(self.notes),
            reference=experiment.reference or "",
        )


def work(cell: Cell, folder: Path, windowings: Sequence[Windowing], probes: Sequence[str], threads: int) -> None:
    """What a cell's process does. It ends as an interrupted run does when its parent has gone, and never works where another still does."""
    end_with_parent()
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, wait=True):
        execute(cell, folder, windowings, probes)


@contextmanager
def _stopping(running: Sequence[_Running]) -> Iterator[None]:
    """Whatever ends the loop, the processes are asked to save and end, and waited for."""
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _write(results: Results, out: Path) -> None:
    write_atomic(out / "results.json", as_json(results.record()))
    write_atomic(out / "results.csv", csv_text(results).encode())
    write_page(results, out)
