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

import numpy as np
import numpy.typing as npt
import torch

from subquad import api
from subquad.checkpoint import as_json, write_atomically
from subquad.comparison.cells import Cell, with_steps
from subquad.comparison.experiment import SPLIT_SEED, Way, found_paths
from subquad.comparison.probes import probe
from subquad.comparison.results import Outcome
from subquad.comparison.tasks import reverse_lines
from subquad.data import Corpus, Span, span_text
from subquad.errors import RunError
from subquad.evaluation.decoding import measure_decoding
from subquad.evaluation.flops import count_parameters
from subquad.evaluation.memory import peak_memory
from subquad.evaluation.record import Record, read_record
from subquad.evaluation.throughput import seconds
from subquad.inference import answer_spans
from subquad.models import build_model
from subquad.models.model import CausalModel
from subquad.training.config import OptimConfig
from subquad.training.machine import resolved_device
from subquad.training.objectives import cross_entropy_sum
from subquad.training.optim import build_optimizer

OUTCOME = "outcome.json"
PLACES = 16  # parts of a window in ``by_position``
PIECE = 16_384  # bytes of a document that are scored, where it has them

Bits = npt.NDArray[np.float32]


def read_outcome(folder: Path) -> Outcome | None:
    """What a finished cell left, None where it is not finished. Raises ``RunError`` for a damaged file."""
    path = folder / OUTCOME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(**values | {"curve": [tuple(point) for point in values["curve"]]})
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
        write_atomically(folder / OUTCOME, as_json(asdict(outcome)))
    return outcome


def waiting(cell: Cell) -> Outcome:
    """What is known of a cell before it has run."""
    return Outcome(
        cell=cell.name,
        model=cell.model,
        data=cell.data,
        seed=cell.seed,
        lr=cell.lr,
        role=cell.role,
        status="waiting",
        flops_per_byte=cell.resolved.flops_per_byte,
        training_flops_per_byte=cell.resolved.training_flops_per_byte,
        config=cell.config,
    )


def _outcome(cell: Cell, folder: Path, ways: Sequence[Way], probes: Sequence[str]) -> Outcome | None:
    run, paths = folder / "run", data_paths(cell, folder)
    if run.is_dir() and not any((run / "state").glob("step-*")):
        shutil.rmtree(run)  # broken off before its first checkpoint, perhaps while its files were being made
    resume = run.is_dir()
    options = {} if resume else cell.options if cell.budget.seconds is None else timed_options(cell)
    try:
        api.train(None if resume else cell.config, paths, run, options, resume=resume, quiet=True, report=False)
    except RunError:
        if not (run / "config.json").is_file() or read_record(run).ended != "not finite":
            raise
    record = read_record(run)
    if record.ended == "interrupted":
        return None
    known = replace(waiting(cell), **_trained(cell, record))
    if record.ended == "not finite":
        return replace(known, status="diverged", step=record.ended_at)
    if cell.role == "rate":
        if record.best is None:
            raise RunError("there is no validation to choose a learning rate by: give the data a validation part")
        return replace(known, status="done", bits={"validation": record.best.bits}, accuracy=record.best.figures.get("accuracy"))
    model = api.load(run)
    assert isinstance(model, CausalModel)
    corpus = Corpus.open(paths)
    held_out = corpus.split(cell.spec.fractions, cell.spec.split, SPLIT_SEED).test
    if corpus.task is not None:
        found = answer_spans(model, held_out, corpus.task)
        known = replace(known, bits={"basic": found.bits}, accuracy=found.accuracy, scored_bytes=found.count)
        return replace(known, **_measured(model, cell), status="done")
    known = replace(known, **_scored(model, cell, held_out, ways), **_measured(model, cell))
    return replace(known, status="done", probes=probe(model, cell, probes, held_out))


def data_paths(cell: Cell, folder: Path) -> list[str]:
    """The files of a cell's text; those of a task are made once for all cells that share it, beside them."""
    paths = found_paths(cell.spec)
    if cell.spec.task is None:
        return paths
    made = folder.parent / f"{cell.spec.task}.txt"
    if not made.is_file():
        made.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(made, reverse_lines(Corpus.open(paths)))
    return [str(made)]


def timed_options(cell: Cell) -> dict[str, Any]:
    """As many steps as fit the seconds of the budget, by the time that a step takes here now."""
    assert cell.budget.seconds is not None
    with torch.random.fork_rng():
        model = build_model(cell.config)
        assert isinstance(model, CausalModel)
        model.to(resolved_device(str(cell.options.get("device", "auto"))))
        taken = seconds(training_step(model, cell), repeat=3)
    return with_steps(cell.options, max(1, int(cell.budget.seconds / taken)), cell.resolved)


def training_step(model: CausalModel, cell: Cell) -> Callable[[], None]:
    """A training step on windows of zeros, as the trainer takes it, update included; of the spans that a model may draw, the last."""
    model.train()
    device = next(model.parameters()).device
    length = min(int(cell.options.get("data.window") or model.config.max_len), model.config.max_len)
    ids = torch.zeros(int(cell.options["batch"]), length, dtype=torch.long, device=device)
    first, end = model.training_spans(length)[-1]
    optimizer = build_optimizer(model, OptimConfig(), 0.0)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cell.options.get("dtype") == "bfloat16"):
            logits = model.span_logits(ids, first, end)
        torch.autograd.backward(cross_entropy_sum(logits, ids[:, first:end], [end - first] * len(ids)) / ids.numel())
        optimizer.step()
        optimizer.zero_grad()

    return step


def _trained(cell: Cell, record: Record) -> dict[str, Any]:
    """What the run's log says. FLOPs go by ids; a token model's are put on the bytes that its tokens stood for."""
    last = record.last
    ids = cell.resolved.ids_a_step
    each = cell.resolved.training_flops_per_byte * ids
    bytes_an_id = last.bytes / (last.step * ids) if last and "data.tokenizer" in cell.options else 1.0
    return {
        "parameters": record.parameters,
        "flops_per_byte": cell.resolved.flops_per_byte / bytes_an_id,
        "training_flops_per_byte": cell.resolved.training_flops_per_byte / bytes_an_id,
        "training_bytes": last.bytes if last else None,
        "training_seconds": last.seconds if last else None,
        "training_flops": each * last.step if last else None,
        "curve": [(each * point.step, point.seconds, point.bytes, point.bits) for point in record.valid],
        "accuracies": [point.figures["accuracy"] for point in record.valid if "accuracy" in point.figures],
        "command": record.command or "",
    }


def _scored(model: CausalModel, cell: Cell, held_out: Sequence[Span], ways: Sequence[Way]) -> dict[str, Any]:
    """Bits per byte by each way that the model can be scored by, and by position, over the same bytes."""
    texts = pieces(held_out, cell.spec.score_bytes, whole_characters=model.tokenizer is not None)
    patched = model.patch_size > 1
    bits: dict[str, float] = {}
    basic: list[Bits] = []
    for way in ways:
        if way in ("strided", "both") and not patched:
            continue
        scores = [api.score(model, text, sliding=way in ("sliding", "both"), strided=way in ("strided", "both")) for text in texts]
        found = api.total(scores).bits_per_byte
        if found is None:
            raise RunError("the test part holds no bytes to score: give the data a larger one")
        bits[way] = found
        basic = [score.bits for score in scores] if way == "basic" else basic
    inside = by_place(basic, model.patch_size, model.patch_size) if patched else []
    by_position = by_place(basic, model.config.max_len, PLACES) if model.tokenizer is None else []
    return {"bits": bits, "inside": inside, "by_position": by_position, "scored_bytes": sum(len(row) for row in basic)}


def pieces(held_out: Sequence[Span], size: int, whole_characters: bool) -> list[bytes]:
    """About ``size`` bytes of the test part: equal pieces of as many of its largest documents as hold pieces of ``PIECE`` bytes.

    Few long pieces rather than many short ones: a model is to be scored on windows as long as it can read.
    """
    spans = sorted(held_out, key=lambda span: (-span.size, span.document.name))[: max(1, size // PIECE)]
    each = math.ceil(size / max(len(spans), 1))
    cut = [span._replace(stop=min(span.stop, span.start + each)) for span in spans]
    return [span_text(span) if whole_characters else span.read(0, span.size).tobytes() for span in cut]


def by_place(rows: Sequence[Bits], period: int, parts: int) -> list[float]:
    """Mean bits in each of ``parts`` equal parts of every ``period`` bytes; none at all where a part has no byte."""
    where = np.concatenate([np.arange(len(row)) % period * parts // period for row in rows])
    sums, counts = np.bincount(where, np.concatenate(rows), parts), np.bincount(where, minlength=parts)
    return [float(mean) for mean in sums / counts] if counts.all() else []


def _measured(model: CausalModel, cell: Cell) -> dict[str, Any]:
    decoding = measure_decoding(model)
    peak = peak_memory(training_step(model, cell))
    model.eval()
    return {
        "parameters": count_parameters(model),
        "state_bytes": decoding.state_bytes,
        "serial_steps": decoding.serial_steps,
        "peak_bytes": peak,
    }
