"""The grid of an experiment: its cells, each one run of one model on one data set, with all that is decided before anything runs.

Only the learning rates that the first cells choose are decided later.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from subquad.comparison.experiment import SPLIT_SEED, Budget, DataSpec, Experiment, FineTuning, ModelSpec, expand_paths
from subquad.comparison.results import Role
from subquad.config import flatten, with_changes
from subquad.evaluation.flops import count_flops, skeleton
from subquad.models import parse_model
from subquad.models.base import BaseModelConfig, ModelConfig
from subquad.objectives.base import Metric, ObjectiveConfig
from subquad.training.config import build_config
from subquad.training.optim import default_lr

Options = dict[str, Any]  # of train.yaml, by dotted name

VALIDATION_IDS = 32_768  # of each validation
_MACHINE_OPTIONS = ("device", "dtype", "threads", "compile")  # those of a model that its fine-tuning keeps
_RESERVED = ("model", "steps", "seed", "init")
_DATA_OPTIONS = ("data.paths", "data.split", "data.fractions", "data.split_seed", "data.tokenizer")
_LABEL_OPTIONS = (*_DATA_OPTIONS, "data.window", "data.test", "objective")


@dataclass(frozen=True)
class ResolvedModel:
    """A model of the experiment with its config, training options, objective and costs; ``note`` says which sizes were chosen by cost.

    ``targets_per_step`` is the number of positions that a step learns from full windows: all of them, or as many as the model draws. FLOPs
    are None where samples have no usual length.
    """

    config: BaseModelConfig
    options: Options
    objective: ObjectiveConfig
    targets_per_step: float
    flops_per_byte: float | None
    training_flops_per_byte: float | None
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """One run to do.

    The number of steps in ``options`` is what the ``budget`` allows; a budget in seconds is turned into steps when the cell runs.
    ``init`` is the name of the cell whose trained weights are the initial ones, empty for fresh weights.
    """

    model: str
    data: str
    seed: int
    lr: float
    role: Role
    options: Options
    spec: DataSpec
    budget: Budget
    resolved: ResolvedModel
    init: str = ""

    @property
    def name(self) -> str:
        """Also the folder of the cell."""
        rate = f"-lr{self.lr:g}" if self.role == "rate" else ""
        return f"{self.data}/{self.model}-seed{self.seed}{rate}"

    @property
    def config(self) -> BaseModelConfig:
        """The model's config."""
        return self.resolved.config

    @property
    def loss_metric(self) -> Metric:
        """The metric that is minimised."""
        return self.resolved.objective.loss_metric(self.config, task=self.spec.synthetic is not None)


def resolve(experiment: Experiment) -> dict[str, ResolvedModel]:
    """Every model's config and costs, by its name in the experiment.

    Raises ``ValueError`` for a model that cannot be built, a training option that does not exist, and a size that no candidate has.
    """
    resolved: dict[str, ResolvedModel] = {}
    waiting = dict(experiment.models)
    while waiting:
        ready = [name for name, spec in waiting.items() if spec.solve is None or spec.solve.like in resolved]
        if not ready:
            raise ValueError(f"the models {', '.join(waiting)} refer to each other in solve.like: give one of them a fixed size")
        for name in ready:
            resolved[name] = _resolve_model(name, waiting.pop(name), experiment, resolved)
    return {name: resolved[name] for name in experiment.models}


def _resolve_model(name: str, spec: ModelSpec, experiment: Experiment, others: Mapping[str, ResolvedModel]) -> ResolvedModel:
    try:
        config = model_config(spec)
        options = flatten(experiment.train) | flatten(spec.train)
        _check_options(options, _DATA_OPTIONS, "use set, seeds, budget, lr or data")
        if spec.solve is None:
            return _with_costs(config, options, spec.note)
        target = others[spec.solve.like].training_flops_per_byte
        if target is None:
            raise ValueError(f"solve.like names {spec.solve.like!r}, whose FLOPs are not counted: give the model a fixed size")
        candidates = []
        for values in itertools.product(*spec.solve.among.values()):
            sizes = dict(zip(spec.solve.among, values, strict=True))
            note = ", ".join(f"{key} = {value}" for key, value in sizes.items())
            candidates.append(_with_costs(with_changes(config, sizes), options, note))
        ratio, best = min(
            ((_cost_ratio(candidate, target), candidate) for candidate in candidates), key=lambda pair: abs(math.log(pair[0]))
        )
    except ValueError as error:
        raise ValueError(f"models.{name}: {error}") from None
    if abs(ratio - 1) > spec.solve.within:
        raise ValueError(
            f"models.{name}: the nearest size, {best.note}, costs {ratio:.2f} times as much as {spec.solve.like}: widen solve.among or "
            "within"
        )
    return replace(best, note=f"{best.note} costs {ratio:.2f} times as much per byte as {spec.solve.like}. {spec.note}".strip())


def _cost_ratio(candidate: ResolvedModel, target: float) -> float:
    assert candidate.training_flops_per_byte is not None
    return candidate.training_flops_per_byte / target


def model_config(spec: ModelSpec) -> BaseModelConfig:
    """The config that a model's preset or config and its ``set`` give, without sizes chosen by cost."""
    config = parse_model(spec.preset if spec.preset is not None else spec.config or {})
    changes = dict(spec.set) | ({"vocab": spec.tokens} if spec.tokens else {})
    return with_changes(config, changes) if changes else config


def _check_options(options: Mapping[str, Any], data_options: Sequence[str], remedy: str) -> None:
    """Raises ``ValueError`` for a training option that the experiment itself decides."""
    if wrong := [key for key in options if key.split(".")[0] in _RESERVED or key.startswith(tuple(data_options))]:
        raise ValueError(f"the training option {wrong[0]!r} is set by the experiment: {remedy}")


def _with_costs(config: BaseModelConfig, options: Options, note: str) -> ResolvedModel:
    train = build_config({"model": config.model_dump(mode="json")}, options)
    objective, batch = train.objective, train.batch
    assert objective is not None
    share = objective.logits_share
    if share is None or not isinstance(config, ModelConfig):
        return ResolvedModel(config, options | {"batch": batch}, objective, batch, None, None, note)
    length = min(train.data.window or config.max_len, config.max_len)  # one window may be set for models with different contexts
    forward, training = (count_flops(config, length, backward=backward) for backward in (False, True))
    forward_flops, training_flops = (counted.total - (1 - share) * counted.logits for counted in (forward, training))
    spans = skeleton(config).training_spans(length)
    targets = sum(end - first for first, end in spans) / len(spans) * batch
    options = options | {"batch": batch} | ({"data.window": length} if train.data.window else {})
    return ResolvedModel(config, options, objective, targets, forward_flops, training_flops, note)


def with_context(model: ResolvedModel, length: int) -> ResolvedModel:
    """The model with a context and windows of that many bytes, and its costs then. Raises ``ValueError`` where it cannot have them."""
    return _with_costs(with_changes(model.config, {"max_len": length}), model.options | {"data.window": length}, model.note)


def rate_cells(experiment: Experiment, models: Mapping[str, ResolvedModel]) -> list[Cell]:
    """The cells that choose learning rates; a model whose ``lr`` is fixed has none."""
    rates = experiment.rates
    if rates is None or experiment.budget is None:
        return []
    budget = experiment.budget.share(rates.share)
    names = [name for name in experiment.models_of(rates.data) if experiment.models[name].lr is None]
    seed = experiment.seeds[0]
    return [_cell(experiment, models[name], name, rates.data, seed, lr, "rate", budget) for name in names for lr in rates.among]


def final_cells(experiment: Experiment, models: Mapping[str, ResolvedModel], rates: Mapping[str, float]) -> list[Cell]:
    """The cells of the results, all data sets with the first seed before the second; ``rates`` are the learning rates chosen."""
    cells = []
    for seed, (data, spec) in itertools.product(experiment.seeds, experiment.data.items()):
        for name in experiment.models_of(data):
            if spec.labels:
                cells.append(_fine_tuning_cell(experiment, models[name], name, data, seed, spec.labels))
            elif experiment.budget:
                lr = learning_rate(experiment, name, models[name], rates)
                cells.append(_cell(experiment, models[name], name, data, seed, lr, "final", experiment.budget))
    _check_one_loss(cells)
    return cells


def learning_rate(experiment: Experiment, name: str, model: ResolvedModel, rates: Mapping[str, float]) -> float:
    """What the model fixes, else what was chosen, else what the training options say, else the default for the width."""
    lr = experiment.models[name].lr or rates.get(name) or model.options.get("optim.lr")
    return float(lr) if lr else model.config.default_lr


def _cell(experiment: Experiment, model: ResolvedModel, name: str, data: str, seed: int, lr: float, role: Role, budget: Budget) -> Cell:
    """A cell that trains from fresh weights."""
    spec, tokens = experiment.data[data], experiment.models[name].tokens
    split = {"data.split": spec.split, "data.fractions": list(spec.fractions), "data.split_seed": SPLIT_SEED}
    if (spec.synthetic or spec.task) and not model.objective.READS_TASKS:
        kind = model.objective.kind
        raise ValueError(
            f"data.{data} is a task, which {name} with the objective {kind!r} cannot learn: name other models in data.{data}.only"
        )
    if task := spec.synthetic:
        model = with_context(model, task.size)
        split |= {"eval.windows": model.options.get("eval.windows", task.examples)}  # all of them: an answer is one of a few hundred
    options = {key: value for key, value in (model.options | split).items() if _is_read(key, model.objective)}
    options |= {"seed": seed, "optim.lr": lr}
    if tokens:
        options["data.tokenizer"] = tokens
    if budget.seconds is None:
        options = with_steps(options, steps_for(budget, model, name), model)
    return Cell(name, data, seed, lr, role, options, spec, budget, model)


def _is_read(key: str, objective: ObjectiveConfig) -> bool:
    """Whether an objective reads an option, of those that all models get."""
    return key != "data.split" or "split" in objective.READS


def _fine_tuning_cell(experiment: Experiment, model: ResolvedModel, name: str, data: str, seed: int, labels: FineTuning) -> Cell:
    """A cell that trains a classifier on the model's backbone."""
    spec, tokens = experiment.data[data], experiment.models[name].tokens
    options = flatten(labels.train)
    try:
        _check_options(options, _LABEL_OPTIONS, "use labels.steps, columns, test and set, seeds or data")
        backbone = model.config.model_dump(mode="json")
        config = with_changes(parse_model({"kind": "classifier", "backbone": backbone}), labels.set)
        lr = float(options.get("optim.lr") or default_lr(config, fine_tuning=bool(labels.init)))
        options = {key: value for key, value in model.options.items() if key in _MACHINE_OPTIONS} | options
        options |= {f"objective.columns.{key}": value for key, value in labels.columns.model_dump(mode="json").items()}
        options |= {"data.fractions": list(spec.fractions), "data.split_seed": SPLIT_SEED, "data.test": expand_paths(labels.test)}
        options |= {"seed": seed, "optim.lr": lr}
        if tokens and not labels.init:  # a pre-trained model brings its tokenizer
            options["data.tokenizer"] = tokens
        resolved = _with_costs(config, options, model.note)
    except ValueError as error:
        raise ValueError(f"data.{data}, models.{name}: {error}") from None
    init = f"{labels.init}/{name}-seed{seed}" if labels.init else ""
    options = with_intervals(options, labels.steps)
    return Cell(name, data, seed, lr, "final", options, spec, Budget(steps=labels.steps), resolved, init)


def _check_one_loss(cells: Sequence[Cell]) -> None:
    """Raises ``ValueError`` for a data set on which two models have losses that cannot be compared."""
    first_cells: dict[str, Cell] = {}
    for cell in cells:
        first = first_cells.setdefault(cell.data, cell)
        if first.loss_metric != cell.loss_metric:
            raise ValueError(
                f"on {cell.data} the loss of {first.model} is in {first.loss_metric.label} and that of {cell.model} in "
                f"{cell.loss_metric.label}, which cannot be compared: name models with one objective in data.{cell.data}.only"
            )


def steps_for(budget: Budget, model: ResolvedModel, name: str) -> int:
    """The steps that spend a budget of FLOPs or bytes, at least one, or those of a budget in steps.

    Raises ``ValueError`` where a model has no FLOPs or bytes to count.
    """
    if budget.steps:
        return max(1, round(budget.steps))
    flops = model.training_flops_per_byte
    if flops is None:
        raise ValueError(f"models.{name}: the objective {model.objective.kind!r} has no cost per byte: use a budget of steps or seconds")
    return max(1, round((budget.bytes or (budget.flops or 0) / flops) / model.targets_per_step))


def with_steps(options: Mapping[str, Any], steps: int, model: ResolvedModel) -> Options:
    """Options with that many steps, and validations on as many bytes for every model, unless the options say otherwise."""
    config = model.config
    window = int(options.get("data.window") or (config.max_len if isinstance(config, ModelConfig) else 1))
    return {"eval.windows": max(1, VALIDATION_IDS // window)} | with_intervals(options, steps)


def with_intervals(options: Mapping[str, Any], steps: int) -> Options:
    """Options with that many steps, ten validations, and a checkpoint every fifth of the run, unless the options say otherwise."""
    intervals = {"eval.every": max(1, steps // 10), "save.every": max(1, steps // 5), "save.keep": 1}
    return intervals | dict(options) | {"steps": steps}
