"""The grid of an experiment, cell by cell: which model, on which text, with which seed, learning rate and number of steps.

Everything is settled before anything runs, except the learning rates that are chosen by the first cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from subquad.comparison.experiment import SPLIT_SEED, Budget, DataSpec, Experiment, Labels, ModelSpec, found_paths
from subquad.comparison.results import Role
from subquad.config import with_changes
from subquad.evaluation.flops import count_flops, skeleton
from subquad.models import parse_model
from subquad.models.base import BaseModelConfig, ModelConfig
from subquad.objectives.base import Metric, ObjectiveConfig
from subquad.training.config import build_config

Values = dict[str, Any]

VALIDATED = 32_768  # ids of each validation
_OF_MACHINE = ("device", "dtype", "threads", "compile")  # what fine-tuning takes over of a model's options
_SETTLED = ("model", "steps", "seed", "init")
_OF_DATA = ("data.paths", "data.split", "data.fractions", "data.split_seed", "data.tokenizer")
_OF_LABELS = (*_OF_DATA, "data.window", "data.test", "objective")


@dataclass(frozen=True)
class Resolved:
    """A model of the experiment with all its numbers: config, dotted training options, objective, cost and what was solved for, in words.

    ``targets_per_step`` are the positions that a step learns of full windows: all of them, or as many as the model draws. FLOPs are None
    where samples have no usual length.
    """

    config: BaseModelConfig
    options: Values
    objective: ObjectiveConfig
    targets_per_step: float
    flops_per_byte: float | None
    training_flops_per_byte: float | None
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """One run to do. ``options`` are those of train.yaml; ``budget`` is met by the number of steps, in ``options`` unless in seconds.

    ``begin`` is the name of the cell whose weights are the start, empty for none.
    """

    model: str
    data: str
    seed: int
    lr: float
    role: Role
    options: Values
    spec: DataSpec
    budget: Budget
    resolved: Resolved
    begin: str = ""

    @property
    def name(self) -> str:
        """Also the folder of the cell."""
        rate = f"-lr{self.lr:g}" if self.role == "rate" else ""
        return f"{self.data}/{self.model}-seed{self.seed}{rate}"

    @property
    def config(self) -> BaseModelConfig:
        """That of the model."""
        return self.resolved.config

    @property
    def loss_metric(self) -> Metric:
        """What is minimised."""
        return self.resolved.objective.loss_metric(self.config, task=self.spec.synthetic is not None)


def resolve(experiment: Experiment) -> dict[str, Resolved]:
    """Every model's config and cost; those that are solved for come after those that they are like.

    Raises ``ValueError`` for a model that cannot be built, a training option that does not exist, and a size that cannot be solved.
    """
    found: dict[str, Resolved] = {}
    waiting = dict(experiment.models)
    while waiting:
        ready = [name for name, spec in waiting.items() if spec.solve is None or spec.solve.like in found]
        if not ready:
            raise ValueError(f"the models {', '.join(waiting)} refer to each other in solve.like: give one of them a fixed size")
        for name in ready:
            found[name] = _resolved(name, waiting.pop(name), experiment, found)
    return {name: found[name] for name in experiment.models}


def _resolved(name: str, spec: ModelSpec, experiment: Experiment, others: Mapping[str, Resolved]) -> Resolved:
    try:
        config = model_config(spec)
        options = flat(experiment.train) | flat(spec.train)
        _check_unsettled(options, _OF_DATA, "use set, seeds, budget, lr or data")
        if spec.solve is None:
            return _costed(config, options, spec.note)
        target = others[spec.solve.like].training_flops_per_byte
        if target is None:
            raise ValueError(f"solve.like names {spec.solve.like!r}, whose FLOPs are not counted: give the model a fixed size")
        candidates = []
        for values in itertools.product(*spec.solve.among.values()):
            sizes = dict(zip(spec.solve.among, values, strict=True))
            words = ", ".join(f"{key} = {value}" for key, value in sizes.items())
            candidates.append(_costed(with_changes(config, sizes), options, words))
        ratio, best = min(((_ratio(candidate, target), candidate) for candidate in candidates), key=lambda pair: abs(math.log(pair[0])))
    except ValueError as error:
        raise ValueError(f"models.{name}: {error}") from None
    if abs(ratio - 1) > spec.solve.within:
        raise ValueError(
            f"models.{name}: the nearest size, {best.note}, costs {ratio:.2f} of {spec.solve.like}: widen solve.among or within"
        )
    return replace(best, note=f"{best.note} costs {ratio:.2f} of {spec.solve.like} a byte. {spec.note}".strip())


def _ratio(candidate: Resolved, target: float) -> float:
    """What a step costs a byte, in terms of the target's."""
    assert candidate.training_flops_per_byte is not None
    return candidate.training_flops_per_byte / target


def model_config(spec: ModelSpec) -> BaseModelConfig:
    """The config of a model, before anything is solved for."""
    base = parse_model(spec.preset if spec.preset is not None else spec.config or {})
    changes = dict(spec.set) | ({"vocab": spec.tokens} if spec.tokens else {})
    return with_changes(base, changes) if changes else base


def _check_unsettled(options: Mapping[str, Any], of_data: Sequence[str], remedy: str) -> None:
    if settled := [key for key in options if key.split(".")[0] in _SETTLED or key.startswith(tuple(of_data))]:
        raise ValueError(f"the training option {settled[0]!r} is set by the experiment: {remedy}")


def flat(options: Mapping[str, Any], prefix: str = "") -> Values:
    """Options by dotted name, however they are nested."""
    found: Values = {}
    for name, value in options.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _costed(config: BaseModelConfig, options: Values, note: str) -> Resolved:
    train = build_config({"model": config.model_dump(mode="json")}, options)
    objective, batch = train.objective, train.batch
    assert objective is not None
    share = objective.logits_share
    if share is None or not isinstance(config, ModelConfig):
        return Resolved(config, options | {"batch": batch}, objective, batch, None, None, note)
    length = min(train.data.window or config.max_len, config.max_len)  # one window may be set for models with different contexts
    forward, training = (count_flops(config, length, backward=backward) for backward in (False, True))
    spans = skeleton(config).training_spans(length)
    targets = sum(end - first for first, end in spans) / len(spans) * batch
    settled = {"batch": batch} | ({"data.window": length} if train.data.window else {})
    forward_flops, training_flops = (counted.total - (1 - share) * counted.logits for counted in (forward, training))
    return Resolved(config, options | settled, objective, targets, forward_flops, training_flops, note)


def fitted(model: Resolved, size: int) -> Resolved:
    """The model with a context and windows of that many bytes, and what it then costs. Raises ``ValueError`` where it cannot have them."""
    return _costed(with_changes(model.config, {"max_len": size}), model.options | {"data.window": size}, model.note)


def rate_cells(experiment: Experiment, models: Mapping[str, Resolved]) -> list[Cell]:
    """The cells that choose learning rates; models with a fixed rate have none."""
    rates = experiment.rates
    if rates is None or experiment.budget is None:
        return []
    budget = experiment.budget.share(rates.share)
    tried = experiment.data[rates.data].only or experiment.models
    open_models = [name for name in tried if experiment.models[name].lr is None]
    return [
        _cell(experiment, models[name], name, rates.data, experiment.seeds[0], lr, "rate", budget)
        for name in open_models
        for lr in rates.among
    ]


def final_cells(experiment: Experiment, models: Mapping[str, Resolved], rates: Mapping[str, float]) -> list[Cell]:
    """The cells of the table, all data with the first seed before the second; ``rates`` are those chosen."""
    cells = []
    for seed in experiment.seeds:
        for data, spec in experiment.data.items():
            for name in spec.only or experiment.models:
                if spec.labels:
                    cells.append(_label_cell(experiment, models[name], name, data, seed, spec.labels))
                elif experiment.budget:
                    lr = learning_rate(experiment, name, models[name], rates)
                    cells.append(_cell(experiment, models[name], name, data, seed, lr, "final", experiment.budget))
    _check_one_loss(cells)
    return cells


def learning_rate(experiment: Experiment, name: str, model: Resolved, rates: Mapping[str, float]) -> float:
    """As the model fixes it, as chosen, as the experiment's options say, or from the width."""
    fixed = experiment.models[name].lr or rates.get(name) or model.options.get("optim.lr")
    return float(fixed) if fixed else model.config.default_lr


def _cell(experiment: Experiment, model: Resolved, name: str, data: str, seed: int, lr: float, role: Role, budget: Budget) -> Cell:
    spec, tokens = experiment.data[data], experiment.models[name].tokens
    split = {"data.split": spec.split, "data.fractions": list(spec.fractions), "data.split_seed": SPLIT_SEED}
    if (spec.synthetic or spec.task) and not model.objective.READS_TASKS:
        kind = model.objective.kind
        raise ValueError(
            f"data.{data} is a task, which {name} with the objective {kind!r} cannot learn: name other models in data.{data}.only"
        )
    if task := spec.synthetic:
        model = fitted(model, task.size)
        split |= {"eval.windows": model.options.get("eval.windows", task.examples)}  # all of them: an answer is one of a few hundred
    options = {key: value for key, value in (model.options | split).items() if _is_read(key, model.objective)}
    options |= {"seed": seed, "optim.lr": lr}
    if tokens:
        options["data.tokenizer"] = tokens
    if budget.seconds is None:
        options = with_steps(options, steps_for(budget, model, name), model)
    return Cell(name, data, seed, lr, role, options, spec, budget, model)


def _is_read(key: str, objective: ObjectiveConfig) -> bool:
    """Whether an objective reads an option, of those that are given to all models."""
    return key != "data.split" or "split" in objective.READS


def _label_cell(experiment: Experiment, model: Resolved, name: str, data: str, seed: int, labels: Labels) -> Cell:
    """A classifier on the model's backbone."""
    spec, tokens = experiment.data[data], experiment.models[name].tokens
    options = flat(labels.train)
    try:
        _check_unsettled(options, _OF_LABELS, "use labels.steps, columns, test and set, seeds or data")
        backbone = model.config.model_dump(mode="json")
        config = with_changes(parse_model({"kind": "classifier", "backbone": backbone}), labels.set)
        lr = float(options.get("optim.lr") or config.default_lr)
        options = {key: value for key, value in model.options.items() if key in _OF_MACHINE} | options
        options |= {f"objective.columns.{key}": value for key, value in labels.columns.model_dump(mode="json").items()}
        options |= {"data.fractions": list(spec.fractions), "data.split_seed": SPLIT_SEED, "data.test": found_paths(labels.test)}
        options |= {"seed": seed, "optim.lr": lr}
        if tokens and not labels.begin:  # the run that it starts from has its own
            options["data.tokenizer"] = tokens
        resolved = _costed(config, options, model.note)
    except ValueError as error:
        raise ValueError(f"data.{data}, models.{name}: {error}") from None
    begin = f"{labels.begin}/{name}-seed{seed}" if labels.begin else ""
    options = with_rhythm(options, labels.steps)
    return Cell(name, data, seed, lr, "final", options, spec, Budget(steps=labels.steps), resolved, begin)


def _check_one_loss(cells: Sequence[Cell]) -> None:
    """Raises ``ValueError`` for data on which two models have losses that cannot be compared."""
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.data, cell)
        if other.loss_metric != cell.loss_metric:
            raise ValueError(
                f"on {cell.data} the loss of {other.model} is in {other.loss_metric.label} and that of {cell.model} in "
                f"{cell.loss_metric.label}, which cannot be compared: name models with one objective in data.{cell.data}.only"
            )


def steps_for(budget: Budget, model: Resolved, name: str) -> int:
    """Steps that spend a budget of FLOPs or bytes, at least one, or those that it names.

    Raises ``ValueError`` where a model has no FLOPs or bytes to count.
    """
    if budget.steps:
        return max(1, round(budget.steps))
    flops = model.training_flops_per_byte
    if flops is None:
        raise ValueError(f"models.{name}: the objective {model.objective.kind!r} has no cost per byte: use a budget of steps or seconds")
    return max(1, round((budget.bytes or (budget.flops or 0) / flops) / model.targets_per_step))


def with_steps(options: Mapping[str, Any], steps: int, model: Resolved) -> Values:
    """Options with that many steps, and validations of as many bytes for every model, unless the experiment says otherwise."""
    config = model.config
    window = int(options.get("data.window") or (config.max_len if isinstance(config, ModelConfig) else 1))
    return {"eval.windows": max(1, VALIDATED // window)} | with_rhythm(options, steps)


def with_rhythm(options: Mapping[str, Any], steps: int) -> Values:
    """Options with that many steps, ten validations, and a checkpoint every fifth of the run, unless the experiment says otherwise."""
    rhythm = {"eval.every": max(1, steps // 10), "save.every": max(1, steps // 5), "save.keep": 1}
    return rhythm | dict(options) | {"steps": steps}
