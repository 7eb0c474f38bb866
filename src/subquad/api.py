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

from subquad.config import override, parse
from subquad.data.files import open_documents
from subquad.data.folders import class_of
from subquad.data.labelled import Example, LabelColumns, read_table
from subquad.data.tables import table_of
from subquad.data.tokenizer import span_text
from subquad.errors import RunError
from subquad.evaluation.flops import count_flops, count_parameters, skeleton
from subquad.evaluation.passage import Passage
from subquad.evaluation.report import write_report
from subquad.evaluation.throughput import matmul_rate, seconds
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
)
from subquad.interop.convert import convert
from subquad.interop.official import from_official
from subquad.models import build_model, parse_model, presets
from subquad.models.base import CausalModel, Model
from subquad.models.classifier import Classifier
from subquad.models.extend_context import extend_context
from subquad.run_folder import TOKENIZER, TRAIN, check_out, load, save, seal
from subquad.run_log import read_run_log
from subquad.training.beginning import CLASSIFIER, ENCODER, build_objective, learns_pairs, start_from
from subquad.training.checkpoints import newest_state
from subquad.training.classification import Labelling, Regression
from subquad.training.config import TrainConfig, read
from subquad.training.objectives import Objective, Prediction
from subquad.training.trainer import Hooks, Result, Trainer

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
    "read_texts",
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

    ``preset_or_config``: a preset's name, a train.yaml, or a mapping (of a train.yaml, or of a model alone); "classifier" is a classifier
    whose backbone is the model of ``init``, or what the option ``model.backbone`` says; with ``problem_type=regression`` it estimates.
    ``data``: files, folders, globs, archives; None keeps the config's. ``options``: keys of train.yaml, nested or dotted. ``init`` starts
    from another run's weights, and takes its tokenizer. ``resume`` goes on with the run in ``out``, whose train.yaml is then the config, so
    that the model may be None.
    ``report=False`` leaves out report.html. Raises ``ValueError`` for wrong input, ``RunError`` when the run fails.
    """
    if resume:
        check_out(out, resume)
    source = Path(out, "train.yaml") if resume else preset_or_config
    if source is None:
        raise ValueError("there is no model to train: name a preset, such as 'megabyte-tiny', or a config")
    config = _train_config(source, data, options or {}, init)
    if resume and preset_or_config not in (None, CLASSIFIER) and _source_model(preset_or_config, config) != config.model:
        raise ValueError(f"{out} holds another model than the one named: leave it out to resume, or start anew in another folder")
    if not config.data.paths:
        raise ValueError("there is no data to train on: name files or folders, as in --data books/")
    config, objective = build_objective(config)
    if config.init and not (resume and newest_state(Path(out))):
        start_from(objective.model, config)
    trainer = Trainer(objective, config, out, _hooks(config, quiet))
    try:
        result = trainer.run(resume)
    except ValueError:
        with suppress(OSError):  # what was refused before it began leaves no empty folder
            Path(out).rmdir()
        raise
    if result.reason != "interrupted" and report:
        _report(result, objective, trainer)
    return result.out


def read_texts(paths: Sequence[str], run: str | Path | None = None, columns: Mapping[str, Any] | None = None) -> list[tuple[str, Example]]:
    """Texts to classify, each with its label where there is one, and a name that says where it came from.

    A .tsv, .csv or .jsonl gives a text for each line, in the columns that ``run`` was trained on, changed by ``columns`` (names and
    numbers as ``data.columns`` takes them); with a ``table`` among these every path is one. Any other file, and - for stdin, is one text;
    its label is the name of the folder it lies in, below a path, where ``run`` was trained on that class. A label may be missing unless
    ``columns`` names its column. Raises ``ValueError`` for a path or line that cannot be read.
    """
    config = read(run) if run is not None and Path(run, TRAIN).is_file() else None
    columns_then, classes = (config.data.columns, config.model.get("classes", ())) if config else (LabelColumns(), ())
    asked = parse(LabelColumns, override(columns_then.model_dump(mode="json") | {"table": None}, columns or {}))
    found = []
    for path in paths:
        for document in open_documents([path])[0]:
            if asked.table or table_of(document.name):
                examples = read_table(document, asked, labels="label" in (columns or {}), naming="--text sentence --label mood")
                found += [(f"{document.name}:{number}", example) for number, example in enumerate(examples, 1)]
            else:
                label = class_of(document.name)
                found.append((document.name, Example(document.read().tobytes(), label if label in classes else None)))
    return found


def info(run: str | Path) -> dict[str, Any]:
    """What a run folder says of itself: model, parameters, data, progress, best validation, files."""
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
        "best_validation": {"step": best.step, record.measure: best.bits, **best.figures} if best else None,
        "data": record.data,
        "repeat": record.command,
    }


def model_table() -> list[dict[str, Any]]:
    """Every preset: parameters, FLOPs of a forward pass per byte at the full context, context in ids."""
    rows = []
    for name, config in presets().items():
        parameters, flops = count_parameters(skeleton(config)), count_flops(config).total
        rows.append({"name": name, "parameters": parameters, "flops_per_byte": flops, "max_len": config.max_len})
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
    values, options = _source(source), dict(options)
    values["model"] = _with_backbone(values["model"], options.pop("model.backbone", None), init)
    values["model"] = _model_config(values["model"], {})
    known = parse(TrainConfig, values).model_dump(mode="json")
    known = override(known, options)
    known["model"] = _model_config(known["model"], {})
    if data is not None:
        known["data"]["paths"] = [data] if isinstance(data, str) else [str(path) for path in data]
    if init is not None:
        known["init"] = str(init)
        if known["data"]["tokenizer"] is None and Path(init, TOKENIZER).is_file():
            known["data"]["tokenizer"] = str(Path(init, TOKENIZER))
    return parse(TrainConfig, known)


def _with_backbone(
    model: str | Mapping[str, Any], named: str | Mapping[str, Any] | None, init: str | Path | None
) -> str | Mapping[str, Any]:
    """The config of a model, of a classifier with the backbone that is named, its own, or that of ``init``."""
    values: str | Mapping[str, Any] = {"kind": CLASSIFIER} if model == CLASSIFIER else model
    if isinstance(values, str) or values.get("kind") != CLASSIFIER:
        if named is not None:
            raise ValueError(f"model.backbone is for a classifier: name {CLASSIFIER!r} as the model, or leave it out")
        return values
    backbone = named if named is not None else values.get("backbone")
    if backbone is not None:
        return {**values, "backbone": parse_model(backbone).model_dump(mode="json")}
    if init is None:
        raise ValueError("a classifier needs a backbone: start from a run with --init RUN, or name one in model.backbone=transformer-tiny")
    start = load(init)
    assert isinstance(start, Model)
    config = start.config.model_dump(mode="json")
    return {**values, "backbone": config["backbone"] if isinstance(start, Classifier) else config}


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


def _source_model(source: str | Path | Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The model that is named for a run that is resumed, with what the run found of its labels where it names none."""
    model = _with_backbone(_source(source)["model"], None, config.init)
    values = _model_config(model, {})
    found = {name: config.model.get(name) for name in ("classes", "target_mean", "target_std")}
    return values if values.get("classes", True) else values | found


def _hooks(config: TrainConfig, quiet: bool) -> Hooks:
    flops = None
    if config.model["kind"] != CLASSIFIER and not learns_pairs(config.model):  # whose texts are of any length: no work per byte
        window = config.data.window or int(config.model["max_len"])
        counted = count_flops(config.model, min(window, int(config.model["max_len"])), backward=True)
        flops = counted.total
        if config.model["kind"] == ENCODER:  # its steps count the ids that are asked for, and give logits of these alone
            flops = counted.logits + (counted.total - counted.logits) / config.mask.mlm_probability
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    return Hooks(
        sample=partial(_sample, config) if config.eval.sample_bytes else None,
        flops_per_byte=flops,
        matmul_rate=lambda dtype: matmul_rate(getattr(torch, dtype), device),
        seconds=lambda call: seconds(call, repeat=3),
        quiet=quiet,
    )


def _sample(config: TrainConfig, model: nn.Module, step: int) -> str:
    written = generate(model, config.eval.prompt, max_bytes=config.eval.sample_bytes, temperature=0.8, seed=config.seed)
    return config.eval.prompt + written.decode("utf-8", "replace")


def _report(result: Result, objective: Objective, trainer: Trainer) -> None:
    """Writes the report with the run's best weights."""
    model = load(result.out, trainer.device)
    try:
        if isinstance(objective, Labelling):
            write_report(result.out, labels=_agreements(model, objective))
        elif isinstance(objective, Prediction) and isinstance(model, CausalModel):
            write_report(result.out, *_passage(model, objective))
        else:
            write_report(result.out)
        seal(result.out)
    except OSError as error:
        raise RunError(f"the run in {result.out} is whole, but its report could not be written: {error.strerror or error}") from error


def _agreements(model: nn.Module, objective: Labelling) -> dict[str, dict[str, float]]:
    """How well the labels of the held-out parts are found."""
    parts = {"validation": objective.data.valid, "test": objective.data.test}
    found = {}
    for name, examples in parts.items():
        texts, labels = [example.text for example in examples], [example.label for example in examples]
        if isinstance(objective, Regression):
            found[name] = regression_metrics(regress(model, texts, truncate=True), labels)
        else:
            found[name] = classification_metrics(classify(model, texts, truncate=True), labels)
    return {name: figures for name, figures in found.items() if figures is not None}


def _passage(model: CausalModel, objective: Prediction) -> tuple[Passage, list[float] | None]:
    """Bits of the beginning of the largest held-out document, and their means inside a patch."""
    split = objective.split
    span = max(split.valid or split.test or split.train, key=lambda one: one.size)
    end = min(span.size, REPORT_BYTES)
    data = span.read(0, end).tobytes() if model.tokenizer is None else span_text(span, 0, end)
    bits = score(model, data).bits
    patch = model.patch_size if model.tokenizer is None else 1  # a patch of tokens has no fixed number of bytes
    passage = Passage(data[:PASSAGE_BYTES], bits[:PASSAGE_BYTES], patch, title=f"held-out data: {span.document.name}")
    return passage, inside_patch(bits, patch) if patch > 1 else None
