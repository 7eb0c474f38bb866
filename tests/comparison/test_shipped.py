"""Every shipped experiment in its quick version: all of its models, on a few kilobytes of bundled text instead of its files, and on a small
table instead of its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from subquad.comparison.experiment import Experiment, quick_version, read_experiment, with_data
from subquad.comparison.runner import compare
from subquad.config import parse

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))


def stand_ins(experiment: Experiment, folder: Path) -> dict[str, list[str]]:
    """A small file for each data set, synthetic tasks apart."""
    text = folder / "text.txt"
    text.write_bytes((ROOT / "examples/data/tinyshakespeare.txt").read_bytes()[:60_000])
    files = {}
    for name, spec in experiment.data.items():
        if spec.labels:
            table = folder / f"{name}.tsv"
            head = [] if spec.labels.columns.numbered else ["label\tx\ty\ttext"]
            table.write_text("\n".join(head + ["\t".join([str(n % 3)] * 3 + [f"a text of number {n}"]) for n in range(600)]))
            files[name] = [str(table)]
        elif not spec.synthetic:
            files[name] = [str(text)]
    return files


def without_repeats(experiment: Experiment) -> Experiment:
    """The experiment without data sets whose kind (text, task, synthetic task, labels) every model has in another one already."""
    data: dict[str, Any] = {}
    seen: set[tuple[tuple[object, ...], str]] = set()
    for name, spec in experiment.data.items():
        kind = (spec.task, spec.synthetic is not None, spec.labels is not None)
        cells = {(kind, model) for model in experiment.models_of(name)}
        if cells - seen:
            data[name] = spec.model_dump(mode="json")
            seen |= cells
    return parse(Experiment, experiment.model_dump(mode="json") | {"data": data})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_quick_version_of_every_experiment_runs(path: Path, tmp_path: Path) -> None:
    experiment = read_experiment(path)
    experiment = without_repeats(quick_version(with_data(experiment, stand_ins(experiment, tmp_path))))
    threads = torch.get_num_threads()
    results = compare(experiment, tmp_path / "out", jobs=0, quiet=True)
    torch.set_num_threads(threads)
    assert [outcome.error for outcome in results.outcomes if outcome.status != "done"] == []
    assert {outcome.model for outcome in results.outcomes if outcome.role == "final"} == set(experiment.models)
    assert {outcome.data for outcome in results.outcomes if outcome.role == "final"} == set(experiment.data)
    assert (tmp_path / "out" / "report.html").stat().st_size > 5000


def test_every_experiment_says_what_it_cannot_show_and_survives_yaml() -> None:
    assert len(SHIPPED) == 11
    for path in SHIPPED:
        experiment = read_experiment(path)
        assert "cannot" in experiment.about
        assert parse(Experiment, yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))) == experiment
