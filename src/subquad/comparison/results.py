"""The results of a comparison: one outcome per cell, plain values that are written to results.json and read back.

A cell is one model on one text with one seed and one learning rate. Cells of the role "rate" only choose the learning rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, TypeAdapter

from subquad.errors import RunError
from subquad.manifest import MANIFEST, damaged_files, read_mapping, read_while_written
from subquad.sections import Passage

RESULTS = "results.json"

Status = Literal["done", "diverged", "failed", "waiting"]
Role = Literal["rate", "final"]
CurvePoint: TypeAlias = tuple[float | None, float, int, float]


def _passage_from(value: object) -> object:
    """A passage of JSON, with its data as bytes; anything else as it is."""
    return {"title": "", **value, "data": value["data"].encode("latin-1")} if isinstance(value, dict) else value


@dataclass(frozen=True)
class Outcome:
    """One cell.

    ``loss`` is that on the test part by scoring window ("basic", "sliding", ...), in ``unit`` ("bits per byte", "nats per masked
    position", ...). ``accuracy`` is that of the test part, or, of a cell that chooses a rate, in
    the best validation; None where there is no answer to be right. ``metrics`` are others of the test part, by name. ``inside`` are bits
    at each position inside a patch, empty without patches, and ``by_position`` the means over equal parts of the context, both of the
    basic way.
    FLOPs per byte are of a forward pass and of a training step, None where nobody counts them, as in fine-tuning. ``curve`` holds a
    (training FLOPs or None, seconds, bytes, validation loss in ``unit``) for each validation, and ``accuracies`` their accuracies.
    ``ids_per_second`` are read in one whole window, ``state_bytes`` is a decoding state of the whole context, ``peak_bytes`` the most
    that a training step allocates, and ``serial_steps`` the layer calls in a row that one more byte takes on average.
    ``sample`` is a text that the model wrote, and ``passage`` a piece of the test part as it was scored.
    """

    cell: str
    model: str
    data: str
    seed: int
    lr: float
    role: Role
    status: Status
    step: int | None = None
    error: str = ""
    unit: str = "bits per byte"
    loss: dict[str, float] = field(default_factory=dict)
    inside: list[float] = field(default_factory=list)
    by_position: list[float] = field(default_factory=list)
    accuracy: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    scored_bytes: int | None = None
    parameters: int | None = None
    flops_per_byte: float | None = None
    training_flops_per_byte: float | None = None
    training_flops: float | None = None
    training_bytes: int | None = None
    training_seconds: float | None = None
    state_bytes: int | None = None
    peak_bytes: int | None = None
    serial_steps: float | None = None
    ids_per_second: float | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    probes: dict[str, Any] = field(default_factory=dict)
    sample: str = ""
    passage: Annotated[Passage | None, BeforeValidator(_passage_from)] = None
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    def record(self) -> dict[str, Any]:
        """The outcome as JSON holds it: the bytes of the passage as one character each (Latin-1)."""
        passage = self.passage and asdict(self.passage) | {"data": self.passage.data.decode("latin-1")}
        return asdict(self) | {"passage": passage}


@dataclass(frozen=True)
class Baseline:
    """What something that is not trained, such as a compressor, needs for the test part of ``data``; ``note`` says what it was given."""

    name: str
    data: str
    bits_per_byte: float
    note: str = ""


@dataclass(frozen=True)
class Published:
    """A published table beside ours: ``rows`` maps a row's name to its numbers, one a column."""

    caption: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class CostCurve:
    """FLOPs per byte of one model, forward, at each length; ``published`` are points read from a figure, (length, FLOPs)."""

    name: str
    lengths: tuple[int, ...]
    flops: tuple[float, ...]
    published: tuple[tuple[int, float], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Results:
    """A whole comparison.

    ``models`` and ``data`` are names in the order of the file; ``notes`` say what was solved for and chosen. ``reference`` is the model
    that the others are compared with, the first one where it is empty.
    """

    title: str
    about: str
    machine: str
    command: str
    budget: str
    models: tuple[str, ...]
    data: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    published: tuple[Published, ...] = ()
    costs: tuple[CostCurve, ...] = ()
    notes: tuple[str, ...] = ()
    reference: str = ""
    baselines: tuple[Baseline, ...] = ()

    def __post_init__(self) -> None:
        if not self.reference and self.models:
            object.__setattr__(self, "reference", self.models[0])

    def finals(self, model: str, data: str) -> list[Outcome]:
        """The cells of one place in the table, one a seed, whatever their status."""
        return [o for o in self.outcomes if o.role == "final" and o.model == model and o.data == data]

    def losses(self, model: str, data: str, way: str = "basic") -> list[float]:
        """The loss on the test part, of the seeds that are done."""
        return [o.loss[way] for o in self.finals(model, data) if o.status == "done" and way in o.loss]

    def accuracy(self, model: str, data: str) -> list[float]:
        """Accuracies on the test part, of the seeds that are done; none for data without accuracy."""
        return [o.accuracy for o in self.finals(model, data) if o.status == "done" and o.accuracy is not None]

    @property
    def tasks(self) -> list[str]:
        """The data that ask for answers."""
        return [data for data in self.data if any(self.accuracy(model, data) for model in self.models)]

    def record(self) -> dict[str, Any]:
        """What results.json says."""
        return asdict(self) | {"outcomes": [outcome.record() for outcome in self.outcomes]}


def summary(values: list[float]) -> tuple[float, float] | None:
    """Mean and spread (largest minus smallest) over seeds; None without any."""
    return (mean(values), max(values) - min(values)) if values else None


def verdict(results: Results, model: str, other: str, data: str) -> Literal["ahead", "behind", "even", "unknown"]:
    """Whether ``model`` has a lower loss than ``other``, or on a task a higher accuracy.

    Only a gap wider than either spread over seeds counts.
    """
    mine, theirs = summary(_losses(results, model, data)), summary(_losses(results, other, data))
    if mine is None or theirs is None:
        return "unknown"
    gap = theirs[0] - mine[0]
    if abs(gap) <= max(mine[1], theirs[1]):
        return "even"
    return "ahead" if gap > 0 else "behind"


def _losses(results: Results, model: str, data: str) -> list[float]:
    """A figure of each seed of which less is better."""
    return [1 - accuracy for accuracy in results.accuracy(model, data)] or results.losses(model, data)


def outcome_from(record: object) -> Outcome:
    """An outcome read back from JSON. Raises ``ValueError`` where it is not one."""
    return TypeAdapter(Outcome).validate_python(record)


def results_from(record: object) -> Results:
    """The value that ``record`` wrote, read back from JSON. Raises ``ValueError`` where it is not one."""
    return TypeAdapter(Results).validate_python(record)


def read_results(folder: str | Path) -> Results:
    """The results of a comparison in ``folder``. Raises ``RunError`` where they are missing, damaged or of another version."""
    path = Path(folder) / RESULTS

    def read() -> Results:
        if not is_intact(path):
            raise RunError(f"{path} is damaged: its sha256 is not that in {MANIFEST}; the same comparison with --resume writes it again")
        try:
            return results_from(read_mapping(path))
        except ValueError as error:
            raise RunError(f"{path} is of another version: the same comparison with --resume writes it again") from error

    return read_while_written(path.parent, read)


def is_intact(path: Path) -> bool:
    """Whether a file is what the manifest beside it says; one from before there were manifests of comparisons is taken as it is."""
    try:
        return not (path.parent / MANIFEST).exists() or not damaged_files(path.parent, [path.name])
    except RunError:  # the manifest itself
        return False
