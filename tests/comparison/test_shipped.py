"""Every shipped experiment in its quick version, on a few kilobytes of bundled text instead of its files, and on a small table instead of
its labels. All of its cells are made; of models that differ in sizes alone, one is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from subquad.comparison.experiment import Experiment, quick_version, read_experiment, with_data
from subquad.comparison.grid import final_cells, resolve
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


def form(value: Any) -> Any:
    """A config without its sizes: models of one form differ in numbers alone."""
    if isinstance(value, Mapping):
        return {key: form(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [form(inner) for inner in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else value


def without_repeats(experiment: Experiment) -> Experiment:
    """One model of each form, one data set of each kind (text, task, synthetic task, labels) for each model, one learning rate."""
    forms: dict[str, str] = {}
    for name, model in resolve(experiment).items():
        forms.setdefault(json.dumps([form(model.config.model_dump(mode="json")), experiment.models[name].tokens is None]), name)
    models, data, seen = set(forms.values()), {}, set()
    for name, spec in experiment.data.items():
        kind = (spec.task, spec.synthetic is not None, spec.labels is not None)
        only = [model for model in experiment.models_of(name) if model in models and (kind, model) not in seen]
        if only:
            data[name] = spec.model_dump(mode="json") | {"only": only}
            seen |= {(kind, model) for model in only}
    values = experiment.model_dump(mode="json") | {"data": data}
    if values["rates"]:
        values["rates"]["among"] = values["rates"]["among"][:1]
    return parse(Experiment, values)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_quick_version_of_every_experiment_runs(path: Path, tmp_path: Path) -> None:
    whole = read_experiment(path)
    quick = quick_version(with_data(whole, stand_ins(whole, tmp_path)))
    assert all(cell.options["steps"] > 0 for cell in final_cells(quick, resolve(quick), {}))
    experiment = without_repeats(quick)
    threads = torch.get_num_threads()
    results = compare(experiment, tmp_path / "out", jobs=0, quiet=True)
    torch.set_num_threads(threads)
    assert [outcome.error for outcome in results.outcomes if outcome.status != "done"] == []
    assert {outcome.data for outcome in results.outcomes if outcome.role == "final"} == set(experiment.data)
    assert (tmp_path / "out" / "report.html").stat().st_size > 5000


def test_every_experiment_says_what_it_cannot_show_and_survives_yaml() -> None:
    assert len(SHIPPED) == 13
    for path in SHIPPED:
        experiment = read_experiment(path)
        assert "cannot" in experiment.about
        assert parse(Experiment, yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json")))) == experiment
