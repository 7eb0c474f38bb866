"""The public functions: what the command line does, from Python. Each composes the packages below it."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subquad.config import with_changes
from subquad.console import StderrConsole, show_line
from subquad.errors import RunError
from subquad.evaluation.flops import count_flops
from subquad.evaluation.memory import training_memory
from subquad.evaluation.sizes import size_of
from subquad.evaluation.throughput import hardware, matmul_rate
from subquad.inference import (
    Answers,
    Classified,
    Score,
    answer,
    classification_metrics,
    classify,
    embed,
    generate,
    is_regression,
    regress,
    regression_metrics,
    score,
    score_files,
    stream,
    total,
    unreadable,
)
from subquad.inputs import read_documents, read_texts
from subquad.interop.convert import convert
from subquad.interop.load import load
from subquad.interop.official import from_official
from subquad.manifest import MANIFEST, damaged_files, read_mapping
from subquad.models import MODELS, parse_model, presets
from subquad.models.base import BaseModelConfig, Model
from subquad.models.extend_context import extend_context
from subquad.objectives.base import Objective, ObjectiveConfig, TestOptions
from subquad.report.run import write_report
from subquad.run_folder import TOKENIZER, load_config, load_weights, locked, resolve_device, save, seal
from subquad.run_log import read_run_log
from subquad.training.config import TrainConfig, build_config, read
from subquad.training.progress import Log
from subquad.training.trainer import LOG, Hooks, Result, Trainer, build_run

__all__ = [
    "Answers",
    "Classified",
    "Score",
    "classification_metrics",
    "answer",
    "build",
    "classify",
    "convert",
    "embed",
    "regress",
    "is_regression",
    "from_official",
    "generate",
    "info",
    "extend_context",
    "load",
    "model_table",
    "regression_metrics",
    "presets",
    "read_documents",
    "read_texts",
    "unreadable",
    "save",
    "score",
    "score_files",
    "stream",
    "total",
    "train",
    "run_training",
]

_TEST_BYTES = 1 << 16  # of the test part, scored at the end of a run: seconds on a CPU


def build(model: str | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> nn.Module:
    """A freshly initialised model of a preset's name or a config mapping, with fields replaced by dotted name.

    ``build("megabyte-tiny", {"patch_size": 8, "stages.0.depth": 6})``. Raises ``ValueError`` for an unknown name or value.
    """
    config = parse_model(model)
    return with_changes(config, overrides).build() if overrides else config.build()


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

    ``preset_or_config``: a preset's name, a train.yaml, or a mapping (of a train.yaml, or of a model alone). A classifier is
    named by its kind, "classifier"; its backbone is then the model of ``init``, or the option ``model.backbone``.
    ``data``: files, folders, globs, archives; None keeps the config's. ``options``: keys of train.yaml, nested or dotted. ``init`` starts
    from another run's weights, and takes its tokenizer. ``resume`` continues the run in ``out``, whose train.yaml is then the config, so
    that the model may be None. ``report=False`` leaves out report.html. A signal saves and ends the run, and its folder is returned too.
    Raises ``ValueError`` for wrong input, ``RunError`` when the run fails.
    """
    return run_training(preset_or_config, data, out, options, init=init, resume=resume, quiet=quiet, report=report).out


def run_training(
    preset_or_config: str | Path | Mapping[str, Any] | None,
    data: Sequence[str] | str | None,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    init: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
) -> Result:
    """``train``, with how the run ended."""
    with locked(out, resume):
        source = Path(out) if resume else preset_or_config
        if source is None:
            raise ValueError("there is no model to train: name a preset, such as 'megabyte-tiny', or a config")
        config = _train_config(source, data, options or {}, init)
        if resume:
            config = _found_again(config, Path(out))
        if resume and preset_or_config is not None:
            _check_same_model(preset_or_config, config, options or {}, out)
        if not config.data.paths:
            raise ValueError("there is no data to train on: name files or folders, as in --data books/")
        model, objective = build_run(config)
        trainer = Trainer(model, objective, config, out, _hooks(config, model.config, quiet))
        result = trainer.run(resume)
        del trainer  # and with it the optimizer's state: the report needs the memory of a model alone
        if result.reason != "interrupted" and report:
            assert config.objective is not None
            console = StderrConsole(quiet=quiet)
            show_line(console, "evaluating the weights that are kept")
            load_weights(model, result.out)  # the model has the last ones
            if objective.has_test and read_run_log(result.out).test is None:
                words = _test(model, objective, config.batch // config.accumulate, result.out)
                show_line(console, f"test: {words}")
            page = _report(model, objective, config.objective, result.out)
            command = config.objective.NEXT.format(run=shlex.quote(str(result.out)))
            show_line(console, f"the report: {page}; next: {command}")
        return result


def info(run: str | Path) -> dict[str, Any]:
    """A summary of a run folder: model, parameters, data, progress, best validation, and files that differ from the manifest."""
    record = read_run_log(Path(run))
    last, best = record.last, record.best
    return {
        "run": str(record.path),
        "model": record.config,
        "parameters": record.parameters,
        "ended": record.ended,
        "steps": last.step if last else None,
        "training_bytes": last.bytes if last else None,
        "training_seconds": last.seconds if last else None,
        "best_validation": {"step": best.step, str(record.loss_name): best.loss, **best.metrics} if best else None,
        "test": {str(record.loss_name): record.test.loss, **record.test.metrics} if record.test else None,
        "baseline": {"name": record.baseline[0], record.baseline[1]: record.baseline[2]} if record.baseline else None,
        "data": record.data,
        "repeat": record.command,
        "damaged": damaged_files(record.path) if (record.path / MANIFEST).exists() else [],
    }


def model_table() -> list[dict[str, Any]]:
    """Every preset: parameters, FLOPs of a forward pass per byte at the full context, context in ids."""
    return [{"name": name, **size_of(config), "max_len": config.max_len} for name, config in presets().items()]


def _train_config(
    source: str | Path | Mapping[str, Any], data: Sequence[str] | str | None, options: Mapping[str, Any], init: str | Path | None
) -> TrainConfig:
    if not isinstance(options, Mapping):
        raise ValueError(f"expected a mapping of keys to values as options, got {options!r}")
    if not isinstance(data, str | Path | Sequence | None):
        raise ValueError(f"expected files, folders or globs as data, got {data!r}")
    values, options = _source(source), dict(options)
    values["model"] = _with_backbone(values["model"], options.pop("model.backbone", None), init)
    if data is not None:
        options["data.paths"] = [str(data)] if isinstance(data, str | Path) else [str(path) for path in data]
    if init is not None:
        options["init"] = str(init)
    config = build_config(values, options)
    if init is not None and config.data.tokenizer is None and Path(init, TOKENIZER).is_file():
        config = with_changes(config, {"data.tokenizer": str(Path(init, TOKENIZER))})
    return config


def _found_again(config: TrainConfig, run: Path) -> TrainConfig:
    """The config of a resumed run, with its relative paths below the folder that it was started in, where they are not in this one."""
    started_in = read_mapping(run / "data.json").get("folder") if (run / "data.json").is_file() else None
    if not isinstance(started_in, str) or started_in == os.getcwd():
        return config

    def found(path: str) -> str:
        there = os.path.join(started_in, os.path.expanduser(path))
        return there if not glob.glob(os.path.expanduser(path)) and glob.glob(there) else path

    changes: dict[str, Any] = {f"data.{name}": [found(path) for path in getattr(config.data, name)] for name in ("paths", "valid", "test")}
    if isinstance(config.data.tokenizer, str):
        changes["data.tokenizer"] = found(config.data.tokenizer)
    return with_changes(config, changes)


def _source(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The mapping of a train.yaml from a path, a preset's name or a mapping."""
    if isinstance(source, Mapping):
        return dict(source) if "model" in source else {"model": dict(source)}
    if not isinstance(source, str | Path):
        raise ValueError(f"expected a preset, a train.yaml or a mapping, got {source!r}")
    if isinstance(source, Path) or source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.exists():
            raise ValueError(f"there is no config {str(path)!r}: expected a train.yaml or a preset (subquad models lists them)")
        return read(path).model_dump(mode="json")
    return {"model": source}


def _with_backbone(
    model: str | Mapping[str, Any], named: str | Mapping[str, Any] | None, init: str | Path | None
) -> str | Mapping[str, Any]:
    """What names a model, with a backbone if its kind has one: the one that is named, its own, or that of ``init``."""
    values: str | Mapping[str, Any] = {"kind": model} if isinstance(model, str) and model in MODELS and model not in presets() else model
    kind = MODELS.get(str(values.get("kind"))) if isinstance(values, Mapping) else None
    if kind is None or not kind.HAS_BACKBONE:
        if named is not None:
            on_backbone = [name for name, config in MODELS.items() if config.HAS_BACKBONE]
            raise ValueError(f"model.backbone is for a {' or '.join(on_backbone)}: name {on_backbone[0]!r} as the model, or leave it out")
        return values
    assert isinstance(values, Mapping)
    backbone = named if named is not None else values.get("backbone")
    if backbone is not None:
        return {**values, "backbone": parse_model(backbone).model_dump(mode="json")}
    if init is None:
        raise ValueError(
            f"a {values['kind']} needs a backbone: start from a run with --init RUN, or name one in model.backbone=transformer-tiny"
        )
    return {**values, "backbone": load_config(init).base_model.model_dump(mode="json")}


def _check_same_model(source: str | Path | Mapping[str, Any], config: TrainConfig, options: Mapping[str, Any], out: str | Path) -> None:
    """Raises ``ValueError`` if the named model differs from that of the resumed run."""
    assert config.objective is not None
    if source == config.model.kind and source not in presets():  # a kind by its name alone
        return
    named = _train_config(
        source, None, {name: value for name, value in options.items() if name.split(".")[0] == "model"}, config.init
    ).model
    defaults = {name: field.default for name, field in type(named).model_fields.items()}
    completed = [name for name in config.objective.COMPLETES & defaults.keys() if getattr(named, name) == defaults[name]]
    if named.kind != config.model.kind or with_changes(named, {name: getattr(config.model, name) for name in completed}) != config.model:
        raise ValueError(f"{out} holds another model than the one named: leave it out to resume, or start anew in another folder")


def _hooks(config: TrainConfig, model: BaseModelConfig, quiet: bool) -> Hooks:
    assert config.objective is not None
    flops, share, base = None, config.objective.logits_share, model.base_model
    length = min(config.data.window or base.max_len, base.max_len)
    if share is not None:
        counted = count_flops(base, length, backward=True)
        flops = counted.logits + (counted.total - counted.logits) / share  # of a target: not every position is one
    return Hooks(
        sample=partial(_sample, config) if config.eval.sample_bytes else None,
        flops_per_target=flops,
        matmul_rate=_matmul_rate,
        machine=hardware(resolve_device(config.device)),
        memory=partial(training_memory, base, logits=share is not None),
        quiet=quiet,
    )


@cache
def _matmul_rate(dtype: str, device: torch.device) -> float:
    """Measured once per process, since it depends on the machine alone."""
    return matmul_rate(getattr(torch, dtype), device)


def _sample(config: TrainConfig, model: nn.Module, step: int) -> str:
    written = generate(model, config.eval.prompt, max_bytes=config.eval.sample_bytes, temperature=0.8, seed=config.seed)
    return config.eval.prompt + written.decode("utf-8", "replace")


def _test(model: Model, objective: Objective[Any], batch_size: int, out: Path) -> str:
    """Evaluates the best weights on the test part, once; the result and a baseline go into the log, and are returned in words."""
    options = TestOptions(_TEST_BYTES, ("basic",), batch_size)
    with torch.inference_mode():
        result = objective.test(model.eval(), options)
    loss, step, baseline = objective.loss_metric, read_run_log(out).best, objective.baseline(options)
    record: dict[str, Any] = {loss.name: result.loss["basic"], **result.metrics, "bytes": result.scored_bytes, "seconds": 0.0}
    if baseline is not None:
        record["baseline"] = baseline._asdict()
    with _keeping(out):
        log = Log(out / LOG)
        log.write({"kind": "test", "step": step.step if step else 0, **record})
        log.close()
    shares = {name: value for name, value in result.metrics.items() if name.endswith("accuracy")}
    accuracy = "".join(f", {name.replace('_', ' ')} {value:.3f}" for name, value in shares.items())
    beside = "" if baseline is None else f" ({baseline.name}: {baseline.value:.3f})"
    return f"{result.loss['basic']:.3f} {loss.label}{accuracy}{beside}"


def _report(model: Model, objective: Objective[Any], config: ObjectiveConfig, out: Path) -> Path:
    """Writes the report of a trained model."""
    model.requires_grad_(False)
    with torch.inference_mode():
        sections = objective.sections(model.eval())
    metrics = (*config.METRICS, objective.loss_metric)  # of two of one name, the one that is meant
    with _keeping(out):
        page = write_report(out, sections, {metric.name: metric.label for metric in metrics})
        seal(out)
    return page


@contextmanager
def _keeping(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"the run in {out} is complete, but its report could not be written: {error.strerror or error}") from error
