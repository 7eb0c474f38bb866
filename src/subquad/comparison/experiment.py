"""An experiment as a file: which models, on which data, at which budget.

Paths of data may begin with ``{data}``, the folder that the environment variable SUBQUAD_DATA names (default ../shared/data), or with
``{stdlib}``, Python's standard library.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from subquad.config import Config, Paths, parse, read_yaml, suggest, with_changes
from subquad.data.labelled import LabelColumns
from subquad.data.split import check_fractions
from subquad.data.synthetic import Task, is_task, parse_task, task_path
from subquad.errors import RunError
from subquad.objectives.base import Windowing

QUICK_WINDOW = 64
QUICK_EXAMPLES = 40
QUICK_STEPS = 2
SPLIT_SEED = 0  # of every cell, whatever its seed: all are scored on the same bytes
_NAME = r"^[\w][\w .+-]*$"  # of models and texts, which are also names of folders

Name = Annotated[str, Field(pattern=_NAME)]
SomePaths = Annotated[Paths, Field(min_length=1)]


class Solve(Config):
    """Values to choose by cost: of all combinations of ``among`` (dotted name of the model's config -> values), the one whose training
    costs nearest to that of the model ``like``, in FLOPs per byte; ``within`` is the largest relative difference allowed."""

    like: str
    among: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(min_length=1)
    within: float = Field(0.1, gt=0)


class ModelSpec(Config):
    """A preset with fields set by dotted name, or a whole config; ``train`` holds options of train.yaml for this model alone.

    ``lr`` fixes the learning rate, which is otherwise chosen as the experiment says. ``tokens`` makes it a model on that many subword
    tokens, learnt from each text's training part. ``note`` goes to the report.
    """

    preset: str | None = None
    config: dict[str, Any] | None = None
    set: dict[str, Any] = {}
    solve: Solve | None = None
    train: dict[str, Any] = {}
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    tokens: int | None = Field(None, gt=256)
    note: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        if (self.preset is None) == (self.config is None):
            raise ValueError("a model is a preset or a config: give one of them")
        return self


class Labels(Config):
    """How a model learns the labels of a table: as a classifier, in ``steps`` steps, from the weights of its run on the text ``begin``, or
    from fresh ones.

    ``columns`` are those of the table; ``test`` names tables that are held out, without which the test part is a fraction; ``set`` holds
    fields of the classifier by dotted name, such as ``dropout``, and ``train`` options of train.yaml.
    """

    steps: int = Field(gt=0)
    begin: str = ""
    columns: LabelColumns = LabelColumns()
    test: Paths = ()
    set: dict[str, Any] = {}
    train: dict[str, Any] = {}


class DataSpec(Config):
    """Files, how they are split (train, valid, test), and about how many bytes of the test part are scored: as many of its largest
    documents as it takes, an equal piece of each, which holds several windows where the document does.

    ``task`` "reverse" makes lines "word=drow" of the words in the files, and asks for the answers of held-out words. A path such as
    ``synthetic:recall,length=256`` makes a synthetic task, evaluated on all answers of its test part; each model's context is then as long
    as an example. With ``labels`` the files are tables of labelled texts, and a model becomes a classifier. ``only`` names the models that
    train on it, all without.
    """

    paths: SomePaths
    split: Literal["auto", "document", "range"] = "auto"
    fractions: tuple[float, float, float] = (0.9, 0.02, 0.08)
    score_bytes: int = Field(65_536, gt=0)
    task: Literal["reverse"] | None = None
    labels: Labels | None = None
    only: tuple[str, ...] = ()

    @property
    def synthetic(self) -> Task | None:
        """The task that a path names, None for files."""
        return parse_task(self.paths[0]) if is_task(self.paths[0]) else None

    @model_validator(mode="after")
    def _knows_its_task(self) -> DataSpec:
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
    """What every cell may spend: training FLOPs, seconds of training, training bytes, or steps. Labels have their own steps."""

    flops: float | None = Field(None, gt=0, allow_inf_nan=False)
    seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    bytes: float | None = Field(None, gt=0, allow_inf_nan=False)
    steps: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError("a budget is flops, seconds, bytes or steps: give exactly one of them")
        return self

    def share(self, part: float) -> Budget:
        """That part of it."""
        return Budget(**{name: value * part for name, value in self if value is not None})

    def __str__(self) -> str:
        name, value = next((name, value) for name, value in self if value is not None)
        amount = f"{value:,.0f}" if name == "steps" else f"{value:.3g}"
        return f"{amount} {'training FLOPs' if name == 'flops' else name} a cell"


class Rates(Config):
    """Learning rates to try for each model: on one text, with a share of the budget; the one of the best validation is used everywhere."""

    among: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(min_length=1)
    data: str
    share: float = Field(0.3, gt=0, le=1)


class PublishedTable(Config):
    """Figures of a paper, printed beside ours."""

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
    """A curve of FLOPs per byte against length: a model as above, or the points of a published figure alone."""

    preset: str | None = None
    config: dict[str, Any] | None = None
    set: dict[str, Any] = {}
    published: tuple[tuple[int, float], ...] = ()
    note: str = ""


class Costs(Config):
    """FLOPs per byte of models at many lengths, counted and not run."""

    lengths: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)
    curves: dict[str, CostSpec]


class Quick(Config):
    """What ``--quick`` changes, to see in seconds that everything works: the budget, the lengths, and any training option."""

    bytes: float = Field(1024, gt=0)
    score_bytes: int = Field(512, gt=0)
    train: dict[str, Any] = {}
    lengths: tuple[int, ...] = (256, 4096)


class Experiment(Config):
    """The whole file. ``reference`` is the model that the others are set against, the first one without."""

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

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        if not self.models and self.costs is None:
            raise ValueError("an experiment needs models to train, or costs to count")
        texts = [name for name, spec in self.data.items() if spec.labels is None]
        if self.models and (not self.data or (texts and self.budget is None) or not self.seeds):
            raise ValueError("models need data, a budget and at least one seed: give all of them (data with labels need no budget)")
        if self.budget and self.data and not texts:
            raise ValueError("all data have labels with their own steps: leave out the budget")
        for name, values in (("seeds", self.seeds), ("rates.among", self.rates.among if self.rates else ()), ("score", self.score)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice: {list(values)}")
        if self.reference is not None and self.reference not in self.models:
            raise ValueError(f"reference {self.reference!r} is not one of the models: {suggest(self.reference, self.models)}")
        if "basic" not in self.score:
            raise ValueError("score must include 'basic', which the main table shows")
        if self.rates and self.rates.data not in self.data:
            raise ValueError(f"rates.data {self.rates.data!r} is not one of the data sets: {suggest(self.rates.data, self.data)}")
        if self.rates and self.data[self.rates.data].labels:
            raise ValueError(f"rates.data {self.rates.data!r} has labels: name data without labels, and set train.optim.lr of the labels")
        for name, spec in self.data.items():
            if len(set(spec.only)) < len(spec.only):
                raise ValueError(f"data.{name}.only has a model twice: {list(spec.only)}")
            if wrong := [model for model in spec.only if model not in self.models]:
                raise ValueError(f"data.{name}.only names {wrong[0]!r}, which is not one of the models: {suggest(wrong[0], self.models)}")
            self._check_begin(name, spec)
        for name, model in self.models.items():
            if model.tokens and any(spec.synthetic for spec in self.data.values()):
                raise ValueError(f"models.{name} reads tokens, but a synthetic task consists of bytes: leave out tokens")
            if model.solve and model.solve.like not in self.models:
                raise ValueError(
                    f"models.{name}.solve.like {model.solve.like!r} is not one of the models: {suggest(model.solve.like, self.models)}"
                )
            if model.tokens and self.budget and self.budget.bytes:
                raise ValueError(
                    f"models.{name} reads tokens, so a budget of bytes does not apply: use a budget of flops, seconds or steps"
                )
        return self

    def _check_begin(self, name: str, spec: DataSpec) -> None:
        """Raises ``ValueError`` where a classifier would start from a run that does not exist."""
        if spec.labels is None:
            return
        models, begin = spec.only or tuple(self.models), spec.labels.begin
        texts = {text: one for text, one in self.data.items() if one.labels is None}
        if begin and begin not in texts:
            raise ValueError(f"data.{name}.labels.begin {begin!r} is not one of the data sets without labels: {suggest(begin, texts)}")
        trained = (texts[begin].only or tuple(self.models)) if begin else ()
        if begin and (missing := [model for model in models if model not in trained]):
            raise ValueError(f"data.{name}.labels.begin: {missing[0]} does not train on {begin}: add the model there, or leave it out here")


def read_experiment(path: str | Path) -> Experiment:
    """Raises ``ValueError`` when the file is missing, not YAML, or not an experiment."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected an experiment file such as experiments/megabyte-text.yaml, but there is no file {str(path)!r}")
    return parse(Experiment, read_yaml(path))


def quick_version(experiment: Experiment) -> Experiment:
    """The same grid with a tiny budget, one seed, two learning rates and short windows: for a look at the machinery, not at the models."""
    quick, values = experiment.quick, experiment.model_dump(mode="json")
    short = {"batch": 1, "data.window": QUICK_WINDOW, "eval.windows": 2, "schedule.warmup": 2}
    values |= {
        "title": f"{experiment.title} (quick: shows that it runs, its figures mean nothing)",
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
    """The experiment on other files: name of a text -> its paths, of which a fraction is the test part of labels too.

    Raises ``ValueError`` for a name it does not have.
    """
    values = experiment.model_dump(mode="json")
    for name, files in paths.items():
        if name not in values["data"]:
            raise ValueError(f"the experiment has no data set {name!r}: {suggest(name, values['data'])}")
        values["data"][name]["paths"] = list(files)
        if values["data"][name]["labels"]:
            values["data"][name]["labels"]["test"] = []
    return parse(Experiment, values)


def found_paths(paths: Sequence[str]) -> list[str]:
    """Paths with ``{data}`` and ``{stdlib}`` filled in. Raises ``RunError`` where that folder is missing."""
    places = {"{data}": os.environ.get("SUBQUAD_DATA", "../shared/data"), "{stdlib}": sysconfig.get_paths()["stdlib"]}
    found = []
    for path in paths:
        for name, place in places.items():
            if path.startswith(name) and not Path(place).is_dir():
                raise RunError(f"{path} needs the folder {place}, which is missing: set SUBQUAD_DATA, or give files with --data NAME=PATH")
            path = path.replace(name, place)
        found.append(path)
    return found
