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
from subquad.config import override, parse
from subquad.evaluation.flops import count_flops, skeleton
from subquad.models import parse_model
from subquad.models.base import causal_model
from subquad.models.encoder import Encoder
from subquad.training.beginning import CLASSIFIER, ENCODER
from subquad.training.config import OptimConfig, TrainConfig
from subquad.training.optim import resolve_lr

Values = dict[str, Any]

VALIDATED = 32_768  # ids of each validation
_OF_MACHINE = ("device", "dtype", "threads", "compile")  # what labels take over of a model's options
_SETTLED = ("model", "steps", "seed", "init")
_OF_DATA = ("data.paths", "data.split", "data.fractions", "data.split_seed", "data.tokenizer")
_OF_LABELS = (*_OF_DATA, "data.window", "data.columns", "data.valid", "data.test")


@dataclass(frozen=True)
class Resolved:
    """A model of the experiment with all its numbers: config, dotted training options, cost and what was solved for, in words.

    ``ids_a_step`` are those that a step learns from full windows: all of them, or as many as the model draws.
    """

    config: Values
    options: Values
    ids_a_step: float
    flops_per_byte: float
    training_flops_per_byte: float
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
    config: Values
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


def resolve(experiment: Experiment) -> dict[str, Resolved]:
    """Every model's config and cost; those that are solved for come after those that they are like.

    Raises ``ValueError`` for a model that cannot be built, a training option that does not exist, and a size that cannot be solved.
    """
    found: dict[str, Resolved] = {}
    waiting = dict(experiment.models)
    while waiting:
        ready = [name for name, spec in waiting.items() if spec.solve is None or spec.solve.like in found]
        if not ready:
            raise ValueError(f"the models {', '.join(waiting)} are solved for by each other: let one of them have a size of its own")
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
        best: Resolved | None = None
        for values in itertools.product(*spec.solve.among.values()):
            chosen = dict(zip(spec.solve.among, values, strict=True))
            words = ", ".join(f"{key} = {value}" for key, value in chosen.items())
            tried = _costed(parse_model(override(config, chosen)).model_dump(mode="json"), options, words)
            if best is None or _distance(tried, target) < _distance(best, target):
                best = tried
    except ValueError as error:
        raise ValueError(f"models.{name}: {error}") from None
    assert best is not None
    share = best.training_flops_per_byte / target
    if abs(share - 1) > spec.solve.within:
        raise ValueError(
            f"models.{name}: the nearest size, {best.note}, costs {share:.2f} of {spec.solve.like}: widen solve.among or within"
        )
    note = f"{best.note} costs {share:.2f} of {spec.solve.like} a byte. {spec.note}".strip()
    return replace(best, note=note)


def model_config(spec: ModelSpec) -> Values:
    """The config of a model, before anything is solved for."""
    base = parse_model(spec.preset if spec.preset is not None else spec.config or {}).model_dump(mode="json")
    changes = dict(spec.set) | ({"vocab": spec.tokens} if spec.tokens else {})
    return parse_model(override(base, changes)).model_dump(mode="json")


def _check_unsettled(options: Mapping[str, Any], of_data: Sequence[str], remedy: str) -> None:
    if own := [key for key in options if key.split(".")[0] in _SETTLED or key.startswith(tuple(of_data))]:
        raise ValueError(f"the training option {own[0]!r} is settled by the experiment: {remedy}")


def flat(options: Mapping[str, Any], prefix: str = "") -> Values:
    """Options by dotted name, however they are nested."""
    found: Values = {}
    for name, value in options.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _costed(config: Values, options: Values, note: str) -> Resolved:
    train = parse(TrainConfig, override(TrainConfig(model=config).model_dump(mode="json"), options))
    model = skeleton(config)
    length = min(train.data.window or model.max_len, model.max_len)  # one window may be asked for of models of all contexts
    counted = [count_flops(config, length, backward=backward) for backward in (False, True)]
    if isinstance(model, Encoder):
        if model.config.head != "mlm":
            raise ValueError(f'a comparison trains encoders that guess what is hidden, got head={model.config.head!r}: set head to "mlm"')
        learned = float(length * train.batch)
        forward, training = (
            one.total - (1 - train.mask.mlm_probability) * one.logits for one in counted
        )  # logits of masked positions alone
    else:
        spans = causal_model(model, "a comparison").training_spans(length)
        learned = sum(end - first for first, end in spans) / len(spans) * train.batch
        forward, training = (one.total for one in counted)
    settled = {"batch": train.batch} | ({"data.window": length} if train.data.window else {})
    return Resolved(config, options | settled, learned, forward, training, note)


def fitted(model: Resolved, size: int) -> Resolved:
    """The model with a context and windows of that many bytes, and what it then costs. Raises ``ValueError`` where it cannot have them."""
    config = parse_model(override(model.config, {"max_len": size})).model_dump(mode="json")
    return _costed(config, model.options | {"data.window": size}, model.note)


def _distance(resolved: Resolved, target: float) -> float:
    return abs(math.log(resolved.training_flops_per_byte / target))


def rate_cells(experiment: Experiment, models: Mapping[str, Resolved]) -> list[Cell]:
    """The cells that choose learning rates; models with a rate of their own have none."""
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
    _check_one_measure(cells)
    return cells


def learning_rate(experiment: Experiment, name: str, model: Resolved, rates: Mapping[str, float]) -> float:
    """As the model fixes it, as chosen, as the experiment's options say, or from the width."""
    fixed = experiment.models[name].lr or rates.get(name) or model.options.get("optim.lr")
    return float(fixed) if fixed else _default_lr(model)


def _default_lr(model: Resolved) -> float:
    return resolve_lr(OptimConfig(), skeleton(model.config))


def _cell(experiment: Experiment, model: Resolved, name: str, data: str, seed: int, lr: float, role: Role, budget: Budget) -> Cell:
    spec, tokens = experiment.data[data], experiment.models[name].tokens
    split = {"data.split": spec.split, "data.fractions": list(spec.fractions), "data.split_seed": SPLIT_SEED}
    if (spec.synthetic or spec.task) and model.config["kind"] == ENCODER:
        raise ValueError(f"data.{data} asks what comes next, and {name} guesses what is hidden: name other models in data.{data}.only")
    if task := spec.synthetic:
        model = fitted(model, task.size)
        split |= {"eval.windows": model.options.get("eval.windows", task.examples)}  # all of them: an answer is one of a few hundred
    options = model.options | split | {"seed": seed, "optim.lr": lr}
    if tokens:
        options["data.tokenizer"] = tokens
    if budget.seconds is None:
        options = with_steps(options, steps_for(budget, model), model)
    return Cell(name, data, seed, lr, role, model.config, options, spec, budget, model)


def _label_cell(experiment: Experiment, model: Resolved, name: str, data: str, seed: int, labels: Labels) -> Cell:
    """A classifier on the model's backbone."""
    spec, tokens = experiment.data[data], experiment.models[name].tokens
    own = flat(labels.train)
    try:
        _check_unsettled(own, _OF_LABELS, "use labels.steps, columns, test and set, seeds or data")
        classifier = parse_model({"kind": CLASSIFIER, "backbone": model.config}).model_dump(mode="json")
        config = parse_model(override(classifier, labels.set)).model_dump(mode="json")
        lr = float(own.get("optim.lr") or _default_lr(model))
        machine = {key: value for key, value in model.options.items() if key in _OF_MACHINE}
        columns = {f"data.columns.{key}": value for key, value in labels.columns.model_dump(mode="json").items()}
        split = {"data.fractions": list(spec.fractions), "data.split_seed": SPLIT_SEED, "data.test": found_paths(labels.test)}
        options = machine | own | columns | split | {"seed": seed, "optim.lr": lr}
        if tokens and not labels.begin:  # the run that it begins from brings its own
            options["data.tokenizer"] = tokens
        parse(TrainConfig, override(TrainConfig(model=config).model_dump(mode="json"), options))
    except ValueError as error:
        raise ValueError(f"data.{data}, models.{name}: {error}") from None
    begin = f"{labels.begin}/{name}-seed{seed}" if labels.begin else ""
    options = with_rhythm(options, labels.steps)
    return Cell(name, data, seed, lr, "final", config, options, spec, Budget(steps=labels.steps), model, begin)


def _check_one_measure(cells: Sequence[Cell]) -> None:
    """Raises ``ValueError`` for a text on which some guess what comes next and some what is hidden."""
    measured: dict[str, Cell] = {}
    for cell in cells:
        first = measured.setdefault(cell.data, cell)
        if not cell.spec.labels and (first.config["kind"] == ENCODER) != (cell.config["kind"] == ENCODER):
            raise ValueError(
                f"{first.model} and {cell.model} differ in what they guess on {cell.data}, what comes next or what is hidden, which cannot "
                f"be compared: name models of one sort in data.{cell.data}.only"
            )


def steps_for(budget: Budget, model: Resolved) -> int:
    """Steps that spend a budget of FLOPs or bytes, at least one, or those that it names."""
    if budget.steps:
        return max(1, round(budget.steps))
    spent = model.ids_a_step if budget.bytes else model.ids_a_step * model.training_flops_per_byte
    return max(1, round((budget.bytes or budget.flops or 0) / spent))


def with_steps(options: Mapping[str, Any], steps: int, model: Resolved) -> Values:
    """Options with that many steps, and validations of as many bytes for every model, unless the experiment says otherwise."""
    window = int(options.get("data.window") or model.config["max_len"])
    return {"eval.windows": max(1, VALIDATED // window)} | with_rhythm(options, steps)


def with_rhythm(options: Mapping[str, Any], steps: int) -> Values:
    """Options with that many steps, ten validations, and a checkpoint every fifth of the run, unless the experiment says otherwise."""
    rhythm = {"eval.every": max(1, steps // 10), "save.every": max(1, steps // 5), "save.keep": 1}
    return rhythm | dict(options) | {"steps": steps}
