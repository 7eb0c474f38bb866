"""Every shipped experiment in its quick version: all of its models, on a few kilobytes of bundled text in place of its files, and on a
made table in place of its labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from subquad.comparison.experiment import quick_version, read_experiment, with_data
from subquad.comparison.runner import compare

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_runs_whole(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes((ROOT / "examples/data/tinyshakespeare.txt").read_bytes()[:60_000])
    experiment = read_experiment(path)
    files = {name: [str(text)] for name, spec in experiment.data.items() if not spec.synthetic}
    for name, spec in experiment.data.items():
        if spec.labels:
            table = tmp_path / f"{name}.tsv"
            head = [] if spec.labels.columns.numbered else ["label\tx\ty\ttext"]
            table.write_text("\n".join(head + ["\t".join([str(n % 3)] * 3 + [f"a text of number {n}"]) for n in range(600)]))
            files[name] = [str(table)]
    experiment = quick_version(with_data(experiment, files))
    experiment = experiment.model_copy(update={"data": dict(list(experiment.data.items())[:2])})
    threads = torch.get_num_threads()
    results = compare(experiment, tmp_path / "out", jobs=0, quiet=True)
    torch.set_num_threads(threads)
    assert [outcome.error for outcome in results.outcomes if outcome.status != "done"] == []
    assert {outcome.model for outcome in results.outcomes if outcome.role == "final"} == set(experiment.models)
    assert (tmp_path / "out" / "report.html").stat().st_size > 5000
