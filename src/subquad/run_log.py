"""What a run folder says about itself: its configuration, its log and the size of its model, read without loading the model."""

from __future__ import annotations

import math
import shlex
import struct
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard, cast

from subquad.errors import RunError
from subquad.parsing import parse_json, parse_yaml, read_text

_COUNTERS = {"kind", "step", "bytes", "seconds"}  # what a line of the log has beside its metrics


@dataclass(frozen=True)
class Point:
    """One measurement of a run: training bytes and seconds so far, the loss, and the other metrics by name."""

    step: int
    bytes: int
    seconds: float
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A text the model wrote after ``step`` steps."""

    step: int
    text: str


@dataclass(frozen=True)
class RunLog:
    """A run folder as read. What the folder does not hold is empty or None; ``loss_name`` is what its log calls the loss.

    ``started`` and ``machine`` are of the first start and the last resumption; ``test`` is the result of the best weights on the test part,
    and ``baseline`` what something simple reaches there: its name, a metric, and the value of that.
    """

    path: Path
    config: dict[str, Any]
    settings: str
    data: Any
    train: tuple[Point, ...]
    valid: tuple[Point, ...]
    samples: tuple[Sample, ...]
    ended: str | None
    ended_at: int | None
    parameters: int | None
    loss_name: str | None = None
    started: str | None = None
    machine: str | None = None
    test: Point | None = None
    baseline: tuple[str, str, float] | None = None

    @property
    def last(self) -> Point | None:
        """The latest measurement."""
        return max((*self.train, *self.valid), key=lambda point: point.step, default=None)

    @property
    def best(self) -> Point | None:
        """The validation of the highest accuracy, where there is one, and then of the lowest loss."""
        return min(self.valid, key=lambda point: (-point.metrics.get("accuracy", 0.0), point.loss), default=None)

    @property
    def command(self) -> str | None:
        """The command that repeats the run, or None without its settings."""
        if not self.settings:
            return None
        paths = [shlex.quote(path) for path in _data_paths(self.settings)] or ["PATH"]
        settings, again = (shlex.quote(str(path)) for path in (self.path / "train.yaml", self.path.with_name(f"{self.path.name}-again")))
        return f"subquad train {settings} --data {' '.join(paths)} --out {again}"


def read_run_log(run: Path) -> RunLog:
    """Reads a run folder; damaged log lines are left out, and so is what a resumed run did a second time.

    Raises ``ValueError`` when ``run`` is not a run folder, ``RunError`` when its config.json is not a JSON object.
    """
    if not (run / "config.json").is_file():
        raise ValueError(f"expected a run folder with a config.json, got {str(run)!r}: give the folder that `subquad train --out` wrote")
    config = _json(run / "config.json")
    if not isinstance(config, dict):
        raise RunError(f"{str(run / 'config.json')!r} is damaged: expected a JSON object; restore the file or train again")
    settings = run / "train.yaml"
    points: dict[str, dict[int, Point]] = {"train": {}, "valid": {}}
    test: Point | None = None
    baseline: tuple[str, str, float] | None = None
    samples: dict[int, Sample] = {}
    ended: tuple[str, int] | None = None
    loss_name: str | None = None
    started: str | None = None
    machine: str | None = None
    for line in _log(run / "log.jsonl"):
        kind, step = line["kind"], line["step"]
        if kind in ("train", "resume"):
            ended = test = baseline = None
        if kind in ("start", "resume"):
            started, machine = started or _text(line, "time"), _text(line, "machine") or machine
        if kind in points:
            loss_name = loss_name or _loss_name(line)
            if point := _point(line, loss_name):
                points[kind][step] = point
        elif kind == "test":
            test, baseline = _point(line, loss_name), _baseline(line.get("baseline"))
        elif kind == "sample" and isinstance(line.get("text"), str):
            samples[step] = Sample(step, line["text"])
        elif kind == "resume":
            for seen in points.values():
                _forget(seen, step)
            _forget(samples, step)
        elif kind == "end":
            ended = str(line.get("reason", "ended")), step
    return RunLog(
        path=run,
        config=config,
        settings=settings.read_text("utf-8", errors="replace") if settings.is_file() else "",
        data=_json(run / "data.json"),
        train=tuple(points["train"].values()),
        valid=tuple(points["valid"].values()),
        samples=tuple(samples.values()),
        ended=ended[0] if ended else None,
        ended_at=ended[1] if ended else None,
        parameters=stored_parameters(run / "model.safetensors"),
        loss_name=loss_name,
        started=started,
        machine=machine,
        test=test,
        baseline=baseline,
    )


def stored_parameters(weights: Path) -> int | None:
    """The number of parameters in a safetensors file, from its header alone; None where there is no such file or it is damaged."""
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > weights.stat().st_size:
                return None
            header = parse_json(file.read(length))
        return sum(math.prod(map(int, tensor["shape"])) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, TypeError, KeyError, AttributeError):
        return None


def _log(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that are objects with a kind and a step; a line cut short by a crash is not."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = parse_json(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("kind"), str) and type(line.get("step")) is int:
                yield line


def _loss_name(line: Mapping[str, Any]) -> str | None:
    """The name of the loss of a training or validation line: the first that is not a counter."""
    return next((name for name in line if name not in _COUNTERS), None)


def _point(line: Mapping[str, Any], loss_name: str | None) -> Point | None:
    """The measurement of a line, or None where a number is missing or not finite."""
    trained, seconds, loss = line.get("bytes"), line.get("seconds"), line.get(loss_name or "")
    if not (_finite(trained) and _finite(seconds) and _finite(loss)):
        return None
    metrics = {key: value for key, value in line.items() if key not in _COUNTERS and key != loss_name and _finite(value)}
    return Point(line["step"], int(trained), seconds, loss, {} if line["kind"] == "train" else metrics)


def _baseline(value: Any) -> tuple[str, str, float] | None:
    """What a test line says of a baseline, None if nothing or damaged."""
    if not isinstance(value, dict) or not _finite(value.get("value")):
        return None
    return str(value.get("name")), str(value.get("metric")), value["value"]


def _text(line: Mapping[str, Any], name: str) -> str | None:
    value = line.get(name)
    return value if isinstance(value, str) and value else None


def _finite(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(cast(float, value)) < 1e300  # false for NaN, and right for integers of any size


def _forget(seen: MutableMapping[int, Any], after: int) -> None:
    for step in [step for step in seen if step > after]:
        del seen[step]


def _json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError):
        return None


def _data_paths(settings: str) -> list[str]:
    try:
        paths = parse_yaml(settings)["data"]["paths"]
    except (ValueError, KeyError, TypeError):
        return []
    return [str(path) for path in paths] if isinstance(paths, list) else [str(paths)]
