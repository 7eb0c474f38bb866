"""Synthetic tasks in a comparison: contexts as long as an example, accuracy beside the loss, verdicts and charts by accuracy."""

from __future__ import annotations

import csv
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subquad import api
from subquad.cli import main
from subquad.comparison import run_cell
from subquad.comparison.charts import learning_curves
from subquad.comparison.experiment import DataSpec, Experiment, quick_version
from subquad.comparison.grid import Cell, final_cells, rate_cells, resolve
from subquad.comparison.page import write_page
from subquad.comparison.results import CurvePoint, Outcome, Results, results_from, verdict
from subquad.comparison.runner import compare
from subquad.comparison.tables import accuracy_table, csv_text, main_table, markdown, plain, verdict_lines
from subquad.config import parse
from subquad.data.corpus import Corpus
from subquad.data.synthetic import parse_task
from subquad.evaluation.flops import count_flops
from subquad.models.base import ModelConfig

RECALL = "synthetic:recall,vocab=6,length={},examples=40"


@pytest.fixture
def tasks(values: dict[str, Any]) -> dict[str, Any]:
    """Two models, one task at two lengths, and a text."""
    values["models"]["transformer"]["lr"] = 0.01
    data = {f"recall-{length}": {"paths": RECALL.format(length), "fractions": [0.8, 0.1, 0.1]} for length in (16, 24)}
    data["recall-24"]["only"] = ["transformer"]
    return values | {"data": data | values["data"], "rates": None, "seeds": [0], "score": ["basic"]}


def cell(model: str, data: str, seed: int, accuracy: float | None, bits: float) -> Outcome:
    curve: list[CurvePoint] = [(1e6, 1.0, 1000, 3.0), (2e6, 2.0, 2000, bits)]
    shares = [] if accuracy is None else [accuracy / 2, accuracy]
    outcome = Outcome(f"{data}/{model}-seed{seed}", model, data, seed, 0.01, "final", "done", loss={"basic": bits}, curve=curve)
    return replace(outcome, accuracy=accuracy, accuracies=shares, unit="bits per byte" if accuracy is None else "bits per answer")


def results(seeds: int) -> Results:
    figures = {
        ("hyena", "recall"): (0.96, 0.2),
        ("conv", "recall"): (0.4, 1.5),
        ("hyena", "books"): (None, 2.0),
        ("conv", "books"): (None, 2.5),
    }
    cells = [
        cell(model, data, seed, share and share + 0.02 * seed, bits)
        for (model, data), (share, bits) in figures.items()
        for seed in range(seeds)
    ]
    return Results("Recall", "", "", "", "", ("hyena", "conv"), ("recall", "books"), tuple(cells))


def max_len(cell: Cell) -> int:
    assert isinstance(cell.config, ModelConfig)
    return cell.config.max_len


def test_a_context_is_as_long_as_an_example(tasks: dict[str, Any]) -> None:
    experiment = parse(Experiment, tasks)
    cells = {cell.name: cell for cell in final_cells(experiment, resolve(experiment), {})}
    names = {"recall-16/megabyte-seed0", "recall-16/transformer-seed0", "recall-24/transformer-seed0"}
    assert cells.keys() == names | {"text/megabyte-seed0", "text/transformer-seed0"}
    for length in (16, 24):
        cell = cells[f"recall-{length}/transformer-seed0"]
        assert max_len(cell) == cell.options["data.window"] == length
        assert cell.options["steps"] == round(640 / (2 * length)) and cell.options["eval.windows"] == 40
        assert cell.resolved.flops_per_byte == count_flops(cell.config, length).total
    assert max_len(cells["text/transformer-seed0"]) == 32


def test_a_task_is_evaluated_by_its_answers(tasks: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = compare(tasks | {"reference": "transformer"}, out, jobs=0, quiet=True)
    assert {outcome.status for outcome in results.outcomes} == {"done"} and results.reference == "transformer"
    outcome = results.finals("transformer", "recall-16")[0]
    assert outcome.scored_bytes == 4 and outcome.accuracy in (0, 0.25, 0.5, 0.75, 1) and len(outcome.accuracies) == len(outcome.curve)
    assert results.tasks == ["recall-16", "recall-24"] and results.finals("transformer", "text")[0].accuracy is None
    assert accuracy_table(results).rows[0][2] == "–", "megabyte does not train at length 24"
    assert results_from(json.loads((out / "results.json").read_text())) == results
    assert "<h2>Accuracy</h2>" in (out / "report.html").read_text()


def test_learning_rates_are_chosen_by_accuracy(tasks: dict[str, Any], tmp_path: Path) -> None:
    tasks["models"] = {"transformer": {"preset": "transformer-tiny", "set": {"stack.dim": 16, "max_len": 32}}}
    tasks |= {
        "data": {"recall": {"paths": RECALL.format(16), "fractions": [0.4, 0.3, 0.3]}},
        "rates": {"among": [1e-9, 0.01], "data": "recall"},
    }
    experiment = parse(Experiment, tasks)
    assert [max_len(cell) for cell in rate_cells(experiment, resolve(experiment))] == [16, 16]
    results = compare(experiment, tmp_path / "out", jobs=0, quiet=True)
    tried = {outcome.lr: outcome.accuracy for outcome in results.outcomes if outcome.role == "rate"}
    assert tried[1e-9] is not None and tried[0.01] is not None
    assert results.finals("transformer", "recall")[0].lr == max(tried, key=lambda lr: tried[lr] or 0)


def test_tables_show_accuracy_beside_the_loss() -> None:
    assert accuracy_table(results(1)).rows == [["hyena", "96.0 %"], ["conv", "40.0 %"]]
    assert accuracy_table(results(2)).rows[0] == ["hyena", "97.0 ± 1.0 %"]
    assert main_table(results(1)).rows[0] == ["hyena", "0.200", "2.000"] and "recall in bits per answer" in main_table(results(1)).note
    assert "| hyena | **96.0 %** |" in markdown(results(1)) and "* 96.0 %" in plain(results(1))
    lines = list(csv.DictReader(io.StringIO(csv_text(results(1)), newline="")))
    assert [line["accuracy"] for line in lines] == ["0.96", "0.4", "", ""]


def test_verdicts_are_by_accuracy() -> None:
    assert verdict_lines(results(1))[1] == "hyena minus conv, bits per byte: books -0.500; accuracy in points: recall +56.0."
    both_seeds = results(2)
    reversed_losses = tuple(replace(outcome, loss={"basic": 2 - outcome.loss["basic"]}) for outcome in both_seeds.outcomes)
    assert verdict(replace(both_seeds, outcomes=reversed_losses), "hyena", "conv", "recall") == "ahead"
    assert verdict_lines(both_seeds)[1] == "hyena is ahead of conv on 2 of 2 texts."


def test_charts_show_accuracy(tmp_path: Path) -> None:
    recall = learning_curves(results(1))["curve_recall_by_flops"]
    assert recall.y_label == "accuracy (%)" and list(recall.series[0].y) == [48.0, 96.0]
    books = learning_curves(results(1))["curve_books_by_flops"]
    assert books.y_label == "bits per byte"
    page = write_page(results(1), tmp_path).read_text()
    assert "96.0 %" in page and "accuracy 96.0%" in page


def test_the_quick_version_has_fewer_examples(tasks: dict[str, Any]) -> None:
    quick = quick_version(parse(Experiment, tasks))
    assert quick.data["recall-16"].synthetic == parse_task(RECALL.format(16))
    spec = DataSpec(paths=("synthetic:addition,digits=5",))
    tasks["data"]["text"] = spec.model_dump()
    assert quick_version(parse(Experiment, tasks)).data["text"].synthetic == parse_task("synthetic:addition,digits=5,examples=40")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"paths": "synthetic:recal"}, "did you mean 'recall'"),
        ({"paths": ["synthetic:recall", "b.txt"]}, "name it alone"),
        ({"paths": "b.txt", "only": ["transfomer"]}, "did you mean 'transformer'"),
    ],
)
def test_a_wrong_task_is_an_error_that_says_what_to_do(values: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(Experiment, values | {"data": {"text": change}, "rates": None})


def test_a_length_that_a_model_cannot_have_is_an_error_before_anything_runs(tasks: dict[str, Any], tmp_path: Path) -> None:
    tasks["data"]["recall-16"]["paths"] = RECALL.format(18)
    with pytest.raises(ValueError, match="patch"):
        compare(parse(Experiment, tasks), tmp_path / "out", jobs=0, quiet=True)
    assert not (tmp_path / "out").exists()


def test_cells_that_run_at_once_share_the_file_of_a_task(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Corpus] = []

    def slow_lines(corpus: Corpus) -> bytes:
        made.append(corpus)
        time.sleep(0.1)
        return b"ab=ba\n"

    monkeypatch.setattr(run_cell, "reverse_lines", slow_lines)
    values["data"]["text"]["task"] = "reverse"
    experiment = parse(Experiment, values | {"rates": None})
    cells = final_cells(experiment, resolve(experiment), {})
    with ThreadPoolExecutor() as threads:
        paths = list(threads.map(lambda cell: run_cell.data_paths(cell, tmp_path / cell.name), cells))
    assert len(made) == 1 and paths == [[str(tmp_path / "text/reverse.txt")]] * len(cells)


def test_score_evaluates_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, task = tmp_path / "run", "synthetic:addition,digits=2,examples=50,seed=3"
    api.train("transformer-tiny", RECALL.format(16), run, {"steps": 1, "dtype": "float32", "device": "cpu"}, quiet=True, report=False)
    assert main(["score", str(run), task, "--json"]) == 0
    (scored,) = json.loads(capsys.readouterr().out)["tasks"]
    answers = api.answer(api.load(run), task)
    assert scored == {"task": task, "answers": 150, "accuracy": answers.accuracy, "bits_per_answer": answers.bits}
    assert main(["score", str(run), task]) == 0
    assert f"{answers.accuracy:.1%}" in capsys.readouterr().out
    assert main(["score", str(run), task, "--sliding"]) == 2 and main(["score", str(run), task, "book.txt"]) == 2
    assert main(["score", str(run), "synthetic:recall,length=2000"]) == 2
    assert "context of 1024" in capsys.readouterr().err
