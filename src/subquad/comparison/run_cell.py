"""One cell: train, or go on with what was trained; then score and measure. What comes out is one ``Outcome``.

A cell's folder holds the run (``run/``) and, once all is known, ``outcome.json``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad import api
from subquad.comparison.evaluate import judge
from subquad.comparison.experiment import Way, found_paths
from subquad.comparison.grid import Cell, with_steps
from subquad.comparison.results import Outcome, outcome_from
from subquad.comparison.reverse_words import reverse_lines
from subquad.data.corpus import Corpus
from subquad.data.masking import MaskConfig
from subquad.errors import RunError
from subquad.evaluation.decoding import measure_decoding
from subquad.evaluation.flops import count_parameters
from subquad.evaluation.memory import peak_memory
from subquad.evaluation.throughput import seconds
from subquad.models import build_model
from subquad.models.base import CausalModel, Model
from subquad.models.encoder import Encoder
from subquad.run_folder import as_json, resolve_device
from subquad.run_log import Point, Record, read_run_log
from subquad.system import write_atomic
from subquad.training.beginning import ENCODER
from subquad.training.config import OptimConfig
from subquad.training.objectives import cross_entropy_sum
from subquad.training.optim import build_optimizer

OUTCOME = "outcome.json"


def read_outcome(folder: Path) -> Outcome | None:
    """What a finished cell left, None where it is not finished. Raises ``RunError`` for a damaged file."""
    path = folder / OUTCOME
    if not path.is_file():
        return None
    try:
        return outcome_from(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged: remove the folder {folder} and run the comparison again with --resume") from error


def execute(cell: Cell, folder: Path, ways: Sequence[Way], probes: Sequence[str]) -> Outcome | None:
    """Runs a cell and writes its outcome; None when it was interrupted, after saving. Goes on with a run that is already there.

    Whatever goes wrong is the cell's own affair, and its outcome says so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTCOME).unlink(missing_ok=True)  # of an earlier try that failed
        outcome = _outcome(cell, folder, ways, probes)
    except Exception as error:
        kind = "" if isinstance(error, RunError | ValueError) else f"{type(error).__name__}: "
        outcome = replace(waiting(cell), status="failed", error=f"{kind}{error}")
    if outcome is not None:
        write_atomic(folder / OUTCOME, as_json(asdict(outcome)))
    return outcome


def waiting(cell: Cell) -> Outcome:
    """What is known of a cell before it has run."""
    counted = cell.resolved if cell.spec.labels is None else None
    return Outcome(
        cell=cell.name,
        model=cell.model,
        data=cell.data,
        seed=cell.seed,
        lr=cell.lr,
        role=cell.role,
        status="waiting",
        unit=_unit(cell),
        flops_per_byte=counted.flops_per_byte if counted else None,
        training_flops_per_byte=counted.training_flops_per_byte if counted else None,
        config=cell.config,
    )


def _unit(cell: Cell) -> str:
    if cell.spec.labels or cell.spec.task or cell.spec.synthetic:
        return "bits per answer"
    return "bits per masked token" if cell.config["kind"] == ENCODER else "bits per byte"


def _outcome(cell: Cell, folder: Path, ways: Sequence[Way], probes: Sequence[str]) -> Outcome | None:
    run, paths, init = folder / "run", data_paths(cell, folder), start_of(cell, folder)
    if run.is_dir() and not any((run / "state").glob("step-*")):
        shutil.rmtree(run)  # broken off before its first checkpoint, perhaps while its files were being made
    resume = run.is_dir()
    options = {} if resume else cell.options if cell.budget.seconds is None else timed_options(cell)
    try:
        start = None if resume else init
        api.train(None if resume else cell.config, paths, run, options, init=start, resume=resume, quiet=True, report=False)
    except RunError:
        if not (run / "config.json").is_file() or read_run_log(run).ended != "not finite":
            raise
    record = read_run_log(run)
    if record.ended == "interrupted":
        return None
    known = replace(waiting(cell), **_trained(cell, record))
    if record.ended == "not finite":
        return replace(known, status="diverged", step=record.ended_at)
    if cell.role == "rate":
        if record.best is None:
            raise RunError("there is no validation to choose a learning rate by: give the data a validation part")
        best = record.best
        return replace(known, status="done", bits={"validation": _bits(record, best)}, accuracy=best.figures.get("accuracy"))
    model = api.load(run)
    assert isinstance(model, Model)
    return replace(known, status="done", **judge(model, cell, run, paths, ways, probes), **_measured(model, cell))


def start_of(cell: Cell, folder: Path) -> Path | None:
    """The run that a cell begins from, which another cell has trained; None for fresh weights."""
    if not cell.begin:
        return None
    other = folder.parent.parent / cell.begin
    outcome = read_outcome(other)
    if outcome is None or outcome.status != "done":
        status = "waiting" if outcome is None else outcome.status
        raise RunError(f"it begins from {cell.begin}, which is {status}: go on with --resume once that is done")
    return other / "run"


def data_paths(cell: Cell, folder: Path) -> list[str]:
    """The files of a cell's text; those of a task are made once for all cells that share it, beside them."""
    paths = found_paths(cell.spec.paths)
    if cell.spec.task is None:
        return paths
    made = folder.parent / f"{cell.spec.task}.txt"
    if not made.is_file():
        made.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(made, reverse_lines(Corpus.open(paths)))
    return [str(made)]


def timed_options(cell: Cell) -> dict[str, Any]:
    """As many steps as fit the seconds of the budget, by the time that a step takes here now."""
    assert cell.budget.seconds is not None
    with torch.random.fork_rng():
        model = build_model(cell.config)
        model.to(resolve_device(str(cell.options.get("device", "auto"))))
        taken = seconds(training_step(model, cell), repeat=3)
    return with_steps(cell.options, max(1, int(cell.budget.seconds / taken)), cell.resolved)


def training_step(model: Model, cell: Cell) -> Callable[[], None]:
    """A training step on windows of zeros, as the trainer takes it, update included.

    Of the spans that a model may draw the last, and of what an encoder may be asked for its share at the beginning of each window.
    """
    model.train()
    device = next(model.parameters()).device
    ids = torch.zeros(int(cell.options["batch"]), _window(model, cell), dtype=torch.long, device=device)
    optimizer = build_optimizer(model, OptimConfig(), 0.0)
    asked = torch.zeros_like(ids, dtype=torch.bool)
    asked[:, : max(1, round(float(cell.options.get("mask.mlm_probability", MaskConfig().mlm_probability)) * ids.shape[1]))] = True

    def loss() -> Tensor:
        if isinstance(model, Encoder):
            return F.cross_entropy(model(ids, masked=asked, positions=asked.flatten().nonzero().squeeze(1)).float(), ids[asked])
        assert isinstance(model, CausalModel)
        first, end = model.training_spans(ids.shape[1])[-1]
        return cross_entropy_sum(model(ids, (first, end)), ids[:, first:end], [end - first] * len(ids)) / ids.numel()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cell.options.get("dtype") == "bfloat16"):
            found = loss()
        torch.autograd.backward(found)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _window(model: Model, cell: Cell) -> int:
    return min(int(cell.options.get("data.window") or model.max_len), model.max_len)


def _trained(cell: Cell, record: Record) -> dict[str, Any]:
    """What the run's log says. FLOPs go by ids; a token model's are put on the bytes that its tokens stood for."""
    last = record.last
    known = {
        "parameters": record.parameters,
        "training_bytes": last.bytes if last else None,
        "training_seconds": last.seconds if last else None,
        "accuracies": [point.figures["accuracy"] for point in record.valid if "accuracy" in point.figures],
        "command": record.command or "",
    }
    if cell.spec.labels:  # texts of any length, whose FLOPs nobody has counted
        return known | {"curve": [(None, point.seconds, point.bytes, _bits(record, point)) for point in record.valid]}
    ids = cell.resolved.ids_a_step
    each = cell.resolved.training_flops_per_byte * ids
    bytes_an_id = last.bytes / (last.step * ids) if last and "data.tokenizer" in cell.options else 1.0
    return known | {
        "flops_per_byte": cell.resolved.flops_per_byte / bytes_an_id,
        "training_flops_per_byte": cell.resolved.training_flops_per_byte / bytes_an_id,
        "training_flops": each * last.step if last else None,
        "curve": [(each * point.step, point.seconds, point.bytes, _bits(record, point)) for point in record.valid],
    }


def _bits(record: Record, point: Point) -> float:
    """The loss of a measurement in bits, where the log has it in nats."""
    return point.bits / math.log(2) if record.measure == "cross_entropy" else point.bits


def _measured(model: Model, cell: Cell) -> dict[str, Any]:
    known: dict[str, Any] = {"parameters": count_parameters(model)}
    if cell.spec.labels:
        return known
    known |= {"peak_bytes": peak_memory(training_step(model, cell)), "ids_per_second": reading_speed(model.eval(), _window(model, cell))}
    if not isinstance(model, CausalModel):
        return known
    decoding = measure_decoding(model)
    return known | {"state_bytes": decoding.state_bytes, "serial_steps": decoding.serial_steps}


@torch.inference_mode()
def reading_speed(model: Model, window: int) -> float:
    """Ids a second of a pass over one whole window; of an encoder without its head, and with what its weights alone decide prepared."""
    ids = torch.zeros(1, window, dtype=torch.long, device=next(model.parameters()).device)
    if isinstance(model, Encoder):
        held = model.prepare(window)
        return window / seconds(lambda: model(ids, spectra=held, output="hidden"))
    return window / seconds(lambda: model(ids))
