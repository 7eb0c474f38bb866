"""An experiment file: which models are trained on which data, at which budget.

Paths of data may name data sets (``text/pg_books:*.xz``, see ``data/sets.py``), or begin with ``{stdlib}``, Python's standard library.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from subquad.config import Config, Paths, parse, read_yaml, suggest, with_changes
from subquad.data.held_out import Way
from subquad.data.labelled import LabelColumns
from subquad.data.sets import located
from subquad.data.split import check_fractions
from subquad.data.synthetic import Task, is_task, parse_task, task_path
from subquad.objectives.base import Windowing

QUICK_WINDOW = 64
QUICK_EXAMPLES = 40
QUICK_STEPS = 2
SPLIT_SEED = 0  # of every cell, whatever its seed: all are evaluated on the same bytes
_NAME = r"^[\w][\w .+-]*$"  # of models and data sets, which are also names of folders

Name = Annotated[str, Field(pattern=_NAME)]
SomePaths = Annotated[Paths, Field(min_length=1)]


class Solve(Config):
    """Sizes chosen by cost: among all combinations of ``among`` (dotted name in the model's config -> values), the one whose training FLOPs
    per byte are nearest to those of the model ``like``; ``within`` is the largest relative difference allowed."""

    like: str
    among: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(min_length=1)
    within: float = Field(0.1, gt=0)


class ModelSpec(Config):
    """A preset with fields set by dotted name, or a whole config; ``train`` holds options of train.yaml for this model alone.

    ``lr`` fixes the learning rate, which is otherwise chosen as the experiment says. ``tokens`` makes it a model on that many subword
    tokens, with a tokenizer trained on the training part of each data set. ``note`` goes to the report.
    """

    preset: str | None = None
    config: dict[str, Any] | None = None
    set: dict[str, Any] = {}
    solve: Solve | None = None
    train: dict[str, Any] = {}
    lr: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, gt=256)
    note: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        if (self.preset is None) == (self.config is None):
            raise ValueError("a model is given by a preset or by a config: give exactly one of them")
        return self


class FineTuning(Config):
    """How a model is fine-tuned on a table of labelled texts: as a classifier, for ``steps`` steps. The initial weights are those of its
    pre-training, the run on the data set ``init`` with the same seed, or fresh ones without it.

    ``columns`` are those of the table. ``test`` names held-out tables; without them a fraction of the table is the test part. ``set`` holds
    fields of the classifier by dotted name, such as ``dropout``, and ``train`` options of train.yaml.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"begin": "init"}

    steps: int = Field(gt=0)
    init: str = ""
    columns: LabelColumns = LabelColumns()
    test: Paths = ()
    set: dict[str, Any] = {}
    train: dict[str, Any] = {}


class DataSpec(Config):
    """A data set: files, the fractions of them for training, validation and test, and about how many bytes of the test part are scored: an
    equal piece of each of its largest documents, as many documents as give pieces of several windows.

    ``task`` "reverse" makes lines "word=drow" of the words in the files and asks for the answers of held-out words. A path such as
    ``synthetic:recall,length=256`` makes a synthetic task, evaluated on all answers of its test part; each model's context is then as long
    as an example. With ``labels`` the files are tables of labelled texts, on which models are fine-tuned. ``only`` names the models that
    train on it; without it all do.
    """

    paths: SomePaths
    split: Way | Literal["auto"] = "auto"
    fractions: tuple[float, float, float] = (0.9, 0.02, 0.08)
    score_bytes: int = Field(65_536, gt=0)
    task: Literal["reverse"] | None = None
    labels: FineTuning | None = None
    only: tuple[str, ...] = ()

    @property
    def synthetic(self) -> Task | None:
        """The task that a path names, None for files."""
        return parse_task(self.paths[0]) if is_task(self.paths[0]) else None

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> DataSpec:
        if self.synthetic and (len(self.paths) > 1 or self.task):
            raise ValueError(f"a synthetic task cannot be combined with other data, got {list(self.paths)}: name it alone, without 'task'")
        if self.labels and (self.synthetic or self.task):
            raise ValueError("labels need a table of texts, not a task: leave out one of them")
        return self

    @model_validator(mode="after")
    def _three_parts(self) -> DataSpec:
        check_fractions(self.fractions)
        if min(self.fractions) == 0:
            raise ValueError(
                f"a comparison needs validation and test parts, so all fractions must be above 0, got {self.fractions}: raise them"
            )
        return self


class Budget(Config):
    """What every cell may spend: training FLOPs, seconds of training, training bytes, or steps. A fine-tuning has its own steps."""

    flops: float | None = Field(None, gt=0)
    seconds: float | None = Field(None, gt=0)
    bytes: float | None = Field(None, gt=0)
    steps: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_unit(self) -> Budget:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError("a budget is flops, seconds, bytes or steps: give exactly one of them")
        return self

    def share(self, fraction: float) -> Budget:
        """A fraction of it."""
        return Budget(**{name: value * fraction for name, value in self if value is not None})

    def __str__(self) -> str:
        name, value = next((name, value) for name, value in self if value is not None)
        amount = f"{value:,.0f}" if name == "steps" else f"{value:.3g}"
        return f"{amount} {'training FLOPs' if name == 'flops' else name} a cell"


class Rates(Config):
    """Learning rates to try for each model, on the data set ``data`` with a ``share`` of the budget. The one with the best validation is
    used on all data sets."""

    among: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    data: str
    share: float = Field(0.3, gt=0, le=1)


class PublishedTable(Config):
    """A table of a paper, printed below the measured ones."""

    caption: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]

    @model_validator(mode="after")
    def _fits(self) -> PublishedTable:
        if wrong := [name for name, row in self.rows.items() if len(row) != len(self.columns)]:
            raise ValueError(
                f"the row {wrong[0]!r} of {self.caption!r} needs {len(self.columns)} figures, one for each column (null for none)"
            )
        return self


class CostSpec(Config):
    """A curve of FLOPs per byte against length: of a model, given as in ``ModelSpec``, or the points of a published figure alone."""

    preset: str | None = None
    config: dict[str, Any] | None = None
    set: dict[str, Any] = {}
    published: tuple[tuple[int, float], ...] = ()
    note: str = ""


class Costs(Config):
    """FLOPs per byte of models at many lengths, counted without running anything."""

    lengths: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)
    curves: dict[str, CostSpec]


class Quick(Config):
    """What ``--quick`` changes, to see in seconds that everything works: the budget, the lengths, and any training option."""

    bytes: float = Field(256, gt=0)
    score_bytes: int = Field(512, gt=0)
    train: dict[str, Any] = {}
    lengths: tuple[int, ...] = (256, 4096)


class Experiment(Config):
    """The whole file. ``reference`` is the model that the others are compared with, by default the first."""

    title: str
    about: str
    reference: str | None = None
    models: dict[Name, ModelSpec] = {}
    data: dict[Name, DataSpec] = {}
    budget: Budget | None = None
    seeds: tuple[Annotated[int, Field(ge=0, lt=1 << 63)], ...] = (0,)
    rates: Rates | None = None
    train: dict[str, Any] = {}
    score: tuple[Windowing, ...] = ("basic",)
    probes: tuple[Literal["trailing-space"], ...] = ()
    published: tuple[PublishedTable, ...] = ()
    costs: Costs | None = None
    quick: Quick = Quick()

    def models_of(self, data: str) -> tuple[str, ...]:
        """The models that train on a data set."""
        return self.data[data].only or tuple(self.models)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Experiment:
        if not self.models and self.costs is None:
            raise ValueError("an experiment needs models to train, or costs to count")
        budgeted = [name for name, spec in self.data.items() if spec.labels is None]
        if self.models and (not self.data or (budgeted and self.budget is None) or not self.seeds):
            raise ValueError("models need data, a budget and at least one seed: give all of them (data with labels need no budget)")
        if self.budget and self.data and not budgeted:
            raise ValueError("all data have labels with their own steps: leave out the budget")
        if "basic" not in self.score:
            raise ValueError("score must include 'basic', which the main table shows")
        return self

    @model_validator(mode="after")
    def _names_nothing_twice(self) -> Experiment:
        lists: dict[str, Sequence[Any]] = {"seeds": self.seeds, "rates.among": self.rates.among if self.rates else (), "score": self.score}
        lists |= {f"data.{name}.only": spec.only for name, spec in self.data.items()}
        for key, values in lists.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{key} has a value twice, got {list(values)}: leave one out")
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Experiment:
        models = {"reference": [self.reference] if self.reference is not None else []}
        models |= {f"data.{name}.only": list(spec.only) for name, spec in self.data.items()}
        models |= {f"models.{name}.solve.like": [model.solve.like] for name, model in self.models.items() if model.solve}
        for key, names in models.items():
            if wrong := [name for name in names if name not in self.models]:
                raise ValueError(f"{key} names {wrong[0]!r}, which is not one of the models: {suggest(wrong[0], self.models)}")
        if self.rates and self.rates.data not in self.data:
            raise ValueError(f"rates.data {self.rates.data!r} is not one of the data sets: {suggest(self.rates.data, self.data)}")
        if self.rates and self.data[self.rates.data].labels:
            raise ValueError(f"rates.data {self.rates.data!r} has labels: name data without labels, and set train.optim.lr of the labels")
        return self

    @model_validator(mode="after")
    def _tokens_fit(self) -> Experiment:
        for name, model in self.models.items():
            if model.tokens and any(spec.synthetic for spec in self.data.values()):
                raise ValueError(f"models.{name} reads tokens, but a synthetic task consists of bytes: leave out tokens")
            if model.tokens and self.budget and self.budget.bytes:
                raise ValueError(
                    f"models.{name} reads tokens, so a budget of bytes does not apply: use a budget of flops, seconds or steps"
                )
        return self

    @model_validator(mode="after")
    def _initial_weights_exist(self) -> Experiment:
        trained = [name for name, spec in self.data.items() if spec.labels is None]
        for name, spec in self.data.items():
            init = spec.labels.init if spec.labels else ""
            if init and init not in trained:
                raise ValueError(f"data.{name}.labels.init {init!r} is not one of the data sets without labels: {suggest(init, trained)}")
            if init and (missing := [model for model in self.models_of(name) if model not in self.models_of(init)]):
                raise ValueError(
                    f"data.{name}.labels.init: {missing[0]} does not train on {init}: add the model there, or leave it out here"
                )
        return self


def read_experiment(path: str | Path) -> Experiment:
    """Raises ``ValueError`` when the file is missing, not YAML, or not an experiment."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected an experiment file such as experiments/megabyte-text.yaml, but there is no file {str(path)!r}")
    return parse(Experiment, read_yaml(path))


def quick_version(experiment: Experiment) -> Experiment:
    """The same models and data with a tiny budget, one seed, two learning rates and short windows: shows that everything runs, no more."""
    quick, values = experiment.quick, experiment.model_dump(mode="json")
    short = {"batch": 1, "data.window": QUICK_WINDOW, "eval.windows": 2, "eval.every": 2, "save.every": 4, "schedule.warmup": 2}
    values |= {
        "title": f"{experiment.title} (quick: shows that it runs, its numbers mean nothing)",
        "seeds": list(experiment.seeds[:1]),
        "budget": _quick_budget(experiment),
        "train": experiment.train | short | quick.train,
    }
    for name, spec in experiment.data.items():
        data = values["data"][name]
        data["score_bytes"] = quick.score_bytes
        if spec.synthetic:
            data["paths"] = [task_path(with_changes(spec.synthetic, {"examples": QUICK_EXAMPLES}))]
        if spec.labels:
            data["labels"]["steps"] = QUICK_STEPS
    if experiment.rates:
        values["rates"] |= {"among": list(experiment.rates.among[:2]), "share": 0.5}
    if experiment.costs:
        values["costs"]["lengths"] = list(quick.lengths)
    return parse(Experiment, values)


def _quick_budget(experiment: Experiment) -> dict[str, float] | None:
    if experiment.budget is None:
        return None
    if experiment.budget.steps:
        return {"steps": QUICK_STEPS}
    tokens = any(model.tokens for model in experiment.models.values())
    return {"flops": experiment.quick.bytes * 1e6} if tokens else {"bytes": experiment.quick.bytes}


def with_data(experiment: Experiment, paths: Mapping[str, Sequence[str]]) -> Experiment:
    """The experiment on other files: name of a data set -> its paths. The test part is then a fraction of them, that of labels too.

    Raises ``ValueError`` for a name that the experiment does not have.
    """
    values = experiment.model_dump(mode="json")
    for name, files in paths.items():
        if name not in values["data"]:
            raise ValueError(f"the experiment has no data set {name!r}: {suggest(name, values['data'])}")
        values["data"][name]["paths"] = list(files)
        if values["data"][name]["labels"]:
            values["data"][name]["labels"]["test"] = []
    return parse(Experiment, values)


def expand_paths(paths: Sequence[str]) -> list[str]:
    """Paths with ``{stdlib}`` filled in, and the files of data sets. Raises ``ValueError`` for a set that is not there."""
    stdlib = sysconfig.get_paths()["stdlib"]
    return [file for path in paths for file in located(path.replace("{stdlib}", stdlib))]
