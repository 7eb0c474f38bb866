"""Runs one cell: trains, or resumes training; then evaluates and measures. The result is an ``Outcome``.

A cell's folder holds the run (``run/``) and, at the end, ``outcome.json`` with its hash in ``manifest.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subquad import api, manifest
from subquad.comparison.experiment import expand_paths
from subquad.comparison.grid import Cell, with_steps
from subquad.comparison.probes import probe
from subquad.comparison.results import Outcome, is_intact, outcome_from
from subquad.comparison.reverse_words import reverse_lines
from subquad.data.corpus import Corpus
from subquad.errors import RunError
from subquad.evaluation.decoding import measure_decoding
from subquad.evaluation.flops import count_parameters
from subquad.evaluation.memory import peak_memory
from subquad.evaluation.throughput import seconds
from subquad.models.base import CausalModel, Model
from subquad.objectives.base import ModelRunner, Objective, TestOptions, Windowing
from subquad.objectives.windows import WindowObjective
from subquad.parsing import parse_json, read_text
from subquad.run_folder import TOKENIZER, resolve_device
from subquad.run_log import RunLog, read_run_log
from subquad.system import as_json, lock, write_atomic
from subquad.training.config import TrainConfig, build_config, read
from subquad.training.optim import build_optimizer
from subquad.training.runtime import checkpointed, resolve_dtype, threads
from subquad.training.step import accumulate_gradients
from subquad.training.trainer import build_run

OUTCOME = "outcome.json"


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of a finished cell, None for any other. Raises ``RunError`` for a file that is damaged or of an earlier version."""
    path = folder / OUTCOME
    if not path.is_file():
        return None
    try:
        if not is_intact(path):
            raise RunError(
                f"{path} is damaged: its sha256 is not that in {manifest.MANIFEST}; remove the two files and run the comparison again with "
                "--resume, which keeps the training"
            )
        return outcome_from(parse_json(read_text(path)))
    except (ValueError, KeyError) as error:
        raise RunError(
            f"{path} is damaged or of an earlier version: remove the folder {folder} and run the comparison again with --resume"
        ) from error


def run_cell(cell: Cell, folder: Path, windowings: Sequence[Windowing], probes: Sequence[str]) -> Outcome | None:
    """Runs a cell in ``folder``, or resumes it, and writes its outcome; None when it was interrupted, after saving.

    Waits while another process still runs it, such as that of a comparison that was killed. A cell that fails raises nothing: the error is
    in its outcome.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, wait=True):
            manifest.replace(folder, {OUTCOME: None})  # of an earlier attempt that failed
            outcome = _outcome(cell, folder, windowings, probes)
            if outcome is not None:
                write_outcome(outcome, folder)
            return outcome
    except Exception as error:
        kind = "" if isinstance(error, RunError | ValueError) else f"{type(error).__name__}: "
        failed = replace(waiting_outcome(cell), status="failed", error=f"{kind}{error}")
        write_outcome(failed, folder)
        return failed


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Writes what ``read_outcome`` reads, with its hash in a manifest."""
    manifest.replace(folder, {OUTCOME: as_json(outcome.record())})


def waiting_outcome(cell: Cell) -> Outcome:
    """The outcome of a cell that has not run."""
    return Outcome(
        cell=cell.name,
        model=cell.model,
        data=cell.data,
        seed=cell.seed,
        lr=cell.lr,
        role=cell.role,
        status="waiting",
        unit=cell.loss_metric.label,
        flops_per_byte=cell.resolved.flops_per_byte,
        training_flops_per_byte=cell.resolved.training_flops_per_byte,
        config=cell.config.model_dump(mode="json"),
    )


def _outcome(cell: Cell, folder: Path, windowings: Sequence[Windowing], probes: Sequence[str]) -> Outcome | None:
    run, paths, init = folder / "run", data_paths(cell, folder), init_run(cell, folder)
    if run.is_dir() and not any((run / "state").glob("step-*")):
        shutil.rmtree(run)  # stopped before its first checkpoint, perhaps while its files were being written
    resume = run.is_dir()
    config = None if resume else cell.config.model_dump(mode="json")
    options = {} if resume else cell.options if cell.budget.seconds is None else timed_options(cell, paths)
    try:
        api.train(config, paths, run, options, init=None if resume else init, resume=resume, quiet=True, report=False)
    except RunError:
        if not (run / "config.json").is_file() or read_run_log(run).ended != "not finite":
            raise
    log = read_run_log(run)
    if log.ended == "interrupted":
        return None
    outcome = replace(waiting_outcome(cell), **_training_fields(cell, log))
    if log.ended == "not finite":
        return replace(outcome, status="diverged", step=log.ended_at)
    if cell.role == "rate":
        if log.best is None:
            raise RunError("choosing a learning rate needs a validation: give the data a validation part")
        return replace(outcome, status="done", loss={"validation": log.best.loss}, accuracy=log.best.metrics.get("accuracy"))
    return replace(outcome, status="done", **_test_fields(cell, run, windowings, probes))


def _test_fields(cell: Cell, run: Path, windowings: Sequence[Windowing], probes: Sequence[str]) -> dict[str, Any]:
    """Loss and metrics of the trained model on the test part, and its costs, as fields of an ``Outcome``."""
    config = read(run)
    model = api.load(run, config.device)
    assert config.objective is not None and isinstance(model, Model)
    objective = config.objective.build(config.setup)
    objective.prepare(model, run / TOKENIZER)
    with torch.inference_mode():
        result = objective.test(model, TestOptions(cell.spec.score_bytes, windowings, config.batch))
    metrics = dict(result.metrics)
    fields: dict[str, Any] = {
        "loss": dict(result.loss),
        "accuracy": metrics.pop("accuracy", None),
        "metrics": metrics,
        "scored_bytes": result.scored_bytes,
        "inside": list(result.inside),
        "by_position": list(result.by_position),
    }
    if isinstance(model, CausalModel) and isinstance(objective, WindowObjective) and not cell.spec.synthetic:
        fields["probes"] = probe(model, cell, probes, objective.split.test)
    with threads(config.threads):
        return fields | _cost_fields(model, objective, config)


def init_run(cell: Cell, folder: Path) -> Path | None:
    """The run of another cell whose weights are the initial ones; None for fresh weights."""
    if not cell.init:
        return None
    pretrained = folder.parent.parent / cell.init
    outcome = read_outcome(pretrained)
    if outcome is None or outcome.status != "done":
        status = "waiting" if outcome is None else outcome.status
        raise RunError(f"it starts from {cell.init}, which is {status}: resume with --resume when that is done")
    return pretrained / "run"


def data_paths(cell: Cell, folder: Path) -> list[str]:
    """The files of a cell's data set; the file of a task is made once, beside the cells that share it."""
    paths = expand_paths(cell.spec.paths)
    if cell.spec.task is None:
        return paths
    task_file = folder.parent / f"{cell.spec.task}.txt"
    task_file.parent.mkdir(parents=True, exist_ok=True)
    with lock(task_file.parent, wait=True):  # these cells may run at the same time
        if not task_file.is_file():
            write_atomic(task_file, reverse_lines(Corpus.open(paths)))
    return [str(task_file)]


def timed_options(cell: Cell, paths: Sequence[str]) -> dict[str, Any]:
    """The cell's options with as many steps as fit a budget in seconds, by the time that a step takes on this machine now."""
    assert cell.budget.seconds is not None
    with torch.random.fork_rng():
        config = build_config({"model": cell.config.model_dump(mode="json")}, cell.options | {"data.paths": list(paths)})
        model, objective = build_run(config)
        objective.prepare(model)
        device = resolve_device(config.device)
        if config.compile:
            model.compile()
        with threads(config.threads):
            taken = seconds(training_step(model.to(device), objective, config), repeat=3, device=device)
    return with_steps(cell.options, max(1, int(cell.budget.seconds / taken)), cell.resolved)


def training_step(model: Model, objective: Objective[Any], config: TrainConfig) -> Callable[[], None]:
    """A step of the trainer, update included, on the next batch at each call; the learning rate is 0, so weights stay."""
    device = next(model.parameters()).device
    runner = ModelRunner.of(model.train(), resolve_dtype(config.dtype, device))
    optimizer = build_optimizer(model, config.optim, 0.0)
    samples = 0

    def step() -> None:
        nonlocal samples
        batch = objective.batch(samples, config.batch)
        samples += config.batch
        with checkpointed(model, config.checkpoint_activations):
            accumulate_gradients(objective, runner, batch, config)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _training_fields(cell: Cell, log: RunLog) -> dict[str, Any]:
    """What the run's log says, as fields of an ``Outcome``. FLOPs are counted per id; a token model's are given per byte of its tokens."""
    last, resolved = log.last, cell.resolved
    fields = {
        "parameters": log.parameters,
        "training_bytes": last.bytes if last else None,
        "training_seconds": last.seconds if last else None,
        "accuracies": [point.metrics["accuracy"] for point in log.valid if "accuracy" in point.metrics],
        "command": log.command or "",
    }
    if resolved.training_flops_per_byte is None or resolved.flops_per_byte is None:
        return fields | {"curve": [(None, point.seconds, point.bytes, point.loss) for point in log.valid]}
    targets = resolved.targets_per_step
    flops_per_step = resolved.training_flops_per_byte * targets
    bytes_per_id = last.bytes / (last.step * targets) if last and "data.tokenizer" in cell.options else 1.0
    return fields | {
        "flops_per_byte": resolved.flops_per_byte / bytes_per_id,
        "training_flops_per_byte": resolved.training_flops_per_byte / bytes_per_id,
        "training_flops": flops_per_step * last.step if last else None,
        "curve": [(flops_per_step * point.step, point.seconds, point.bytes, point.loss) for point in log.valid],
    }


def _cost_fields(model: Model, objective: Objective[Any], config: TrainConfig) -> dict[str, Any]:
    """What a model costs, as fields of an ``Outcome``; where texts are of any length, its size alone."""
    fields: dict[str, Any] = {"parameters": count_parameters(model)}
    window = objective.window
    if config.objective is None or config.objective.logits_share is None or window is None:
        return fields
    fields["peak_bytes"] = peak_memory(training_step(model, objective, config), next(model.parameters()).device)
    fields["ids_per_second"] = reading_speed(model.eval(), config, window)
    if isinstance(model, CausalModel):
        decoding = measure_decoding(model)
        fields |= {"state_bytes": decoding.state_bytes, "serial_steps": decoding.serial_steps}
    return fields


@torch.inference_mode()
def reading_speed(model: Model, config: TrainConfig, window: int) -> float:
    """Ids a second of a pass over one whole window."""
    assert config.objective is not None
    device = next(model.parameters()).device
    ids = torch.zeros(1, window, dtype=torch.long, device=device)
    inputs = config.objective.reading_inputs(model, window)
    return window / seconds(lambda: model(ids, **inputs), device=device)
