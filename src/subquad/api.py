"""The public functions: what the command line does, from Python. Each composes the packages below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from subquad.checkpoint import load, save, seal, shapes_of
from subquad.config import override, parse
from subquad.data import Corpus, span_text
from subquad.errors import RunError
from subquad.evaluation.flops import count_flops, count_parameters
from subquad.evaluation.passage import Passage
from subquad.evaluation.record import Point, read_record
from subquad.evaluation.report import write_report
from subquad.evaluation.throughput import matmul_rate, seconds
from subquad.inference import Answers, Score, answer, distil, generate, score, score_files, stream, total
from subquad.interop.convert import convert
from subquad.interop.official import from_official
from subquad.models import build_model, parse_model, presets
from subquad.models.model import CausalModel
from subquad.training.config import TrainConfig, differences, read
from subquad.training.state import check_out, newest_state
from subquad.training.trainer import Hooks, Result, Trainer

__all__ = [
    "Answers",
    "Score",
    "answer",
    "build",
    "distil",
    "convert",
    "from_official",
    "generate",
    "info",
    "load",
    "model_table",
    "presets",
    "save",
    "score",
    "score_files",
    "stream",
    "total",
    "train",
]

REPORT_BYTES = 1 << 16  # scored for the report: enough for bits by position, seconds on a CPU
PASSAGE_BYTES = 1200


def build(model: str | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> nn.Module:
    """A freshly initialised model of a preset's name or a config mapping, with fields replaced by dotted name.

    ``build("megabyte-tiny", {"patch_size": 8, "stages.0.depth": 6})``. Raises ``ValueError`` for an unknown name or value.
    """
    return build_model(_model_config(model, overrides or {}))


def train(
    preset_or_config: str | Path | Mapping[str, Any] | None,
    data: Sequence[str] | str | None,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    init: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
) -> Path:
    """Trains a model and returns its run folder.

    ``preset_or_config``: a preset's name, a train.yaml, or a mapping (of a train.yaml, or of a model alone). ``data``: files, folders,
    globs, archives; None keeps the config's. ``options``: keys of train.yaml, nested or dotted. ``init`` starts from another run's
    weights. ``resume`` goes on with the run in ``out``, whose train.yaml is then the config: the model may be None. ``report=False``
    leaves out report.html. Raises ``ValueError`` for wrong input, ``RunError`` when the run fails.
    """
    if resume:
        check_out(out, resume)
    source = Path(out, "train.yaml") if resume else preset_or_config
    if source is None:
        raise ValueError("there is no model to train: name a preset, such as 'megabyte-tiny', or a config")
    config = _train_config(source, data, options or {}, init)
    if resume and preset_or_config is not None and _source_model(preset_or_config) != config.model:
        raise ValueError(f"{out} holds another model than the one named: leave it out to resume, or start anew in another folder")
    if not config.data.paths:
        raise ValueError("there is no data to train on: name files or folders, as in --data books/")
    corpus = Corpus.open(config.data.paths, image=config.data.image)
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if config.init and not (resume and newest_state(Path(out))):
        _start_from(model, config)
    assert isinstance(model, CausalModel)
    trainer = Trainer(model, config, corpus, out, _hooks(config, quiet))
    try:
        result = trainer.run(resume)
    except ValueError:
        with suppress(OSError):  # what was refused before it began leaves no empty folder
            Path(out).rmdir()
        raise
    if result.reason != "interrupted" and report:
        _report(result, trainer, config)
    return result.out


def info(run: str | Path) -> dict[str, Any]:
    """What a run folder says of itself: model, parameters, data, progress, best validation, files."""
    record = read_record(Path(run))
    last, best = record.last, record.best
    return {
        "run": str(record.path),
        "model": record.config,
        "parameters": record.parameters,
        "ended": record.ended,
        "steps": last.step if last else None,
        "training_bytes": last.bytes if last else None,
        "training_seconds": last.seconds if last else None,
        "best_validation": _validated(best) if best else None,
        "data": record.data,
        "repeat": record.command,
    }


def _validated(point: Point) -> dict[str, Any]:
    right = {} if point.accuracy is None else {"accuracy": point.accuracy}
    return {"step": point.step, "bits_per_byte": point.bits} | right


def model_table() -> list[dict[str, Any]]:
    """Every preset: parameters, FLOPs of a forward pass per byte at the full context, context in ids."""
    rows = []
    for name, config in presets().items():
        with torch.device("meta"):
            parameters = count_parameters(build_model(config))
        rows.append({"name": name, "parameters": parameters, "flops_per_byte": count_flops(config).total, "max_len": config.max_len})
    return rows


def inside_patch(bits: np.ndarray[Any, np.dtype[np.float32]], patch_size: int) -> list[float]:
    """Mean bits at each position inside a patch, for bits scored from a patch's start."""
    whole = len(bits) // patch_size * patch_size
    return [float(mean) for mean in bits[:whole].reshape(-1, patch_size).mean(0)] if whole else []


def _model_config(model: str | Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    values = override(parse_model(model).model_dump(mode="json"), overrides)
    return parse_model(values).model_dump(mode="json")


def _train_config(
    source: str | Path | Mapping[str, Any], data: Sequence[str] | str | None, options: Mapping[str, Any], init: str | Path | None
) -> TrainConfig:
    values = _source(source)
    values["model"] = _model_config(values["model"], {})
    known = parse(TrainConfig, values).model_dump(mode="json")
    known = override(known, options)
    known["model"] = _model_config(known["model"], {})
    if data is not None:
        known["data"]["paths"] = [data] if isinstance(data, str) else [str(path) for path in data]
    if init is not None:
        known["init"] = str(init)
    return parse(TrainConfig, known)


def _source(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A train.yaml's mapping, from whatever names it."""
    if isinstance(source, Mapping):
        return dict(source) if "model" in source else {"model": dict(source)}
    if isinstance(source, Path) or source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.exists():
            raise ValueError(f"there is no config {str(path)!r}: expected a train.yaml or a preset (subquad models lists them)")
        return read(path).model_dump(mode="json")
    return {"model": source}


def _source_model(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    return _model_config(_source(source)["model"], {})


def _start_from(model: nn.Module, config: TrainConfig) -> None:
    """Takes over another run's weights. Raises ``ValueError`` when its model has other shapes, with the keys that make it so."""
    assert config.init is not None
    start = load(config.init)
    assert isinstance(start, CausalModel) and isinstance(model, CausalModel)
    if shapes_of(start) != shapes_of(model):
        there = start.config.model_dump(mode="json")
        changed = ", ".join(differences(TrainConfig(model=config.model), TrainConfig(model=there)))
        raise ValueError(f"{config.init} holds another model, they differ in {changed}: give the same values to start from its weights")
    model.load_state_dict(start.state_dict())
    model.tokenizer = start.tokenizer


def _hooks(config: TrainConfig, quiet: bool) -> Hooks:
    window = config.data.window or int(config.model["max_len"])
    flops = count_flops(config.model, min(window, int(config.model["max_len"])), backward=True)
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    return Hooks(
        sample=partial(_sample, config) if config.eval.sample_bytes else None,
        flops_per_byte=flops.total,
        matmul_rate=lambda dtype: matmul_rate(getattr(torch, dtype), device),
        seconds=lambda call: seconds(call, repeat=3),
        quiet=quiet,
    )


def _sample(config: TrainConfig, model: nn.Module, step: int) -> str:
    written = generate(model, config.eval.prompt, max_bytes=config.eval.sample_bytes, temperature=0.8, seed=config.seed)
    return config.eval.prompt + written.decode("utf-8", "replace")


def _report(result: Result, trainer: Trainer, config: TrainConfig) -> None:
    """Scores the beginning of the largest held-out document with the run's best weights and writes the report."""
    model = load(result.out, trainer.device)
    assert isinstance(model, CausalModel)
    span = max(trainer.split.valid or trainer.split.test or trainer.split.train, key=lambda one: one.size)
    end = min(span.size, REPORT_BYTES)
    data = span.read(0, end).tobytes() if model.tokenizer is None else span_text(span, 0, end)
    bits = score(model, data).bits
    patch = model.patch_size if model.tokenizer is None else 1  # a patch of tokens has no fixed number of bytes
    passage = Passage(data[:PASSAGE_BYTES], bits[:PASSAGE_BYTES], patch, title=f"held-out data: {span.document.name}")
    try:
        write_report(result.out, passage, inside_patch(bits, patch) if patch > 1 else None)
        seal(result.out)
    except OSError as error:
        raise RunError(f"the run in {result.out} is whole, but its report could not be written: {error.strerror or error}") from error
