"""What a comparison found: one outcome a cell, plain values that go to results.json and come back.

A cell is one model on one text with one seed and one learning rate. Cells of the role "rate" only choose the learning rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any, Literal, TypeAlias

Status = Literal["done", "diverged", "failed", "waiting"]
Role = Literal["rate", "final"]
CurvePoint: TypeAlias = tuple[float | None, float, int, float]


@dataclass(frozen=True)
class Outcome:
    """One cell.

    ``bits`` are bits per byte of the test part by way of scoring ("basic", "sliding", ...), ``inside`` those at each position inside a
    patch and ``by_position`` the means over equal parts of the context, both of the basic way, ``inside`` empty without patches. FLOPs
    per byte are of a forward pass and of a training step; ``curve`` holds (training FLOPs, seconds, bytes, validation bits per byte).
    On a synthetic task ``bits`` are those of an answer, ``accuracy`` is the share of the test part's answers that are right, or, of a
    cell that chooses a rate, of the best validation's, and ``accuracies`` are those of the points of ``curve``. Of labels both are of a
    label, and nobody counts FLOPs; an encoder's bits on a text are those of a hidden id. ``figures`` are others of the test part, by name,
    and ``ids_per_second`` are read in one whole window.
    ``state_bytes`` is a decoding state of the whole context, ``peak_bytes`` the most that a training step allocates, and ``serial_steps``
    the layer calls in a row that one more byte takes on average.
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
    bits: dict[str, float] = field(default_factory=dict)
    inside: list[float] = field(default_factory=list)
    by_position: list[float] = field(default_factory=list)
    accuracy: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
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
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def labelled(self) -> bool:
        """Whether it is of labels."""
        return self.config.get("kind") == "classifier"

    @property
    def unit(self) -> str:
        """What ``bits`` are of."""
        if self.labelled or self.accuracy is not None:
            return "bits of an answer"
        return "bits of a hidden id" if self.config.get("kind") == "encoder" else "bits per byte"


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
    """A whole comparison. ``models`` and ``data`` are names in the order of the file; ``notes`` say what was solved for and chosen."""

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

    def finals(self, model: str, data: str) -> list[Outcome]:
        """The cells of one place in the table, one a seed, whatever their status."""
        return [o for o in self.outcomes if o.role == "final" and o.model == model and o.data == data]

    def bits(self, model: str, data: str, way: str = "basic") -> list[float]:
        """Test bits per byte of the seeds that are done."""
        return [o.bits[way] for o in self.finals(model, data) if o.status == "done" and way in o.bits]

    def accuracy(self, model: str, data: str) -> list[float]:
        """Shares of right answers in the test part, of the seeds that are done; none where the data ask for no answers."""
        return [o.accuracy for o in self.finals(model, data) if o.status == "done" and o.accuracy is not None]

    @property
    def tasks(self) -> list[str]:
        """The data that ask for answers."""
        return [data for data in self.data if any(self.accuracy(model, data) for model in self.models)]

    def record(self) -> dict[str, Any]:
        """What results.json says."""
        return asdict(self)


def summary(bits: list[float]) -> tuple[float, float] | None:
    """Mean and spread (largest less smallest) over seeds; None without any."""
    return (mean(bits), max(bits) - min(bits)) if bits else None


def verdict(results: Results, model: str, other: str, data: str) -> Literal["ahead", "behind", "even", "unknown"]:
    """Whether ``model`` needs fewer bits than ``other``, or of a task has more answers right.

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
    return [1 - accuracy for accuracy in results.accuracy(model, data)] or results.bits(model, data)


def results_from(record: dict[str, Any]) -> Results:
    """The value that ``record`` wrote, read back from JSON."""
    outcomes = tuple(Outcome(**values | {"curve": [tuple(point) for point in values["curve"]]}) for values in record["outcomes"])
    published = tuple(
        Published(one["caption"], tuple(one["columns"]), {name: tuple(row) for name, row in one["rows"].items()})
        for one in record["published"]
    )
    costs = tuple(
        CostCurve(one["name"], tuple(one["lengths"]), tuple(one["flops"]), tuple((int(at), y) for at, y in one["published"]), one["note"])
        for one in record["costs"]
    )
    names = {name: tuple(record[name]) for name in ("models", "data", "notes")}
    return Results(**record | names | {"outcomes": outcomes, "published": published, "costs": costs})
