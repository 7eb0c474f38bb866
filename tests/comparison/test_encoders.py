"""Encoders in a comparison: masked language modelling on a text, then fine-tuning on labels from these weights."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subquad import api
from subquad.comparison.experiment import Budget, Experiment, quick_version, with_data
from subquad.comparison.grid import final_cells, resolve
from subquad.comparison.results import Results, results_from
from subquad.comparison.runner import compare
from subquad.comparison.tables import accuracy_table, cost_table, csv_text, main_table, markdown, metric_table
from subquad.config import parse
from subquad.data.labelled import LabelColumns, read_labelled
from subquad.evaluation.flops import count_flops
from tests.comparison.small import TINY, two_encoders, write_labels, write_text


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_labels(tmp_path)


@pytest.fixture
def values(text: Path, table: Path) -> dict[str, Any]:
    return two_encoders(text, table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole comparison has run, in ``out``."""
    folder = tmp_path_factory.mktemp("encoders")
    compare(two_encoders(write_text(folder), write_labels(folder)), folder / "out", jobs=0, quiet=True)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return results_from(json.loads((folder / "out/results.json").read_text()))


def test_classifiers_start_from_the_pretrained_encoders(results: Results, folder: Path) -> None:
    assert [(outcome.cell, outcome.status, outcome.error) for outcome in results.outcomes] == [
        (f"{name}-seed0", "done", "") for name in ("text/bert", "text/m2", "moods/bert", "moods/m2", "fresh/m2")
    ]
    cells = folder / "out/cells"
    config = json.loads((cells / "moods/m2-seed0/run/config.json").read_text())
    assert config["kind"] == "classifier" and config["dropout"] == 0.1
    assert (cells / "text/m2-seed0/run").as_posix() in (cells / "moods/m2-seed0/run/train.yaml").read_text()
    assert "init: null" in (cells / "fresh/m2-seed0/run/train.yaml").read_text()


def test_classifiers_are_evaluated_on_the_test_part(results: Results, folder: Path) -> None:
    outcome = results.finals("m2", "moods")[0]
    test = read_labelled([str(folder / "moods.tsv")], columns=LabelColumns(text=1, label=0), fractions=(0.6, 0.2, 0.2)).test
    predictions = api.classify(api.load(folder / "out/cells/moods/m2-seed0/run"), [example.text for example in test])
    metrics = api.classification_metrics(predictions, [example.label for example in test])
    assert metrics == {"accuracy": outcome.accuracy} | outcome.metrics and len(outcome.accuracies) == len(outcome.curve) > 0
    nats = [-math.log(prediction.probabilities[str(example.label)]) for prediction, example in zip(predictions, test, strict=True)]
    assert outcome.loss == {"basic": pytest.approx(sum(nats) / len(nats))}
    assert outcome.scored_bytes == sum(len(example.text) for example in test)
    assert outcome.training_flops_per_byte is None and outcome.curve[0][0] is None


def test_encoders_are_evaluated_at_masked_positions(results: Results) -> None:
    outcome = results.finals("bert", "text")[0]
    assert outcome.accuracy is None and 0 <= outcome.metrics["masked_accuracy"] <= 1 and 1 < outcome.loss["basic"] < 12
    assert outcome.ids_per_second and outcome.peak_bytes and outcome.state_bytes is None and outcome.training_bytes == 6 * 2 * 32


def test_tables_and_the_page_name_the_losses(results: Results, folder: Path) -> None:
    main = main_table(results)
    assert main.title == "Loss" and "text in nats per masked position" in main.note and "moods in nats per label" in main.note
    assert accuracy_table(results).header == ["Model", "moods", "fresh"] and accuracy_table(results).rows[0][2] == "–"
    header, rows = metric_table(results).header, metric_table(results).rows
    assert header == [
        "Model",
        "text: accuracy at masked positions",
        *[f"{text}: {name}" for text in ("moods", "fresh") for name in ("F1", "Matthews correlation")],
    ]
    assert rows[0][1] == f"{results.finals('bert', 'text')[0].metrics['masked_accuracy']:.3f}" and rows[0][4] == "–"
    assert "## Other metrics" in markdown(results) and "minus m2, nats per masked position: text" in markdown(results)
    lines = list(csv.DictReader(io.StringIO(csv_text(results), newline="")))
    assert [bool(line["matthews"]) for line in lines] == [False, False, True, True, True]
    page = (folder / "out/report.html").read_text()
    assert "Bits per byte" not in page and "nats per masked position" in page and "by training bytes" in page


def test_costs_are_those_of_pretraining(results: Results) -> None:
    pretraining = replace(results, outcomes=tuple(outcome for outcome in results.outcomes if outcome.flops_per_byte is not None))
    assert cost_table(results) == cost_table(pretraining)
    assert results.finals("m2", "text")[0].training_seconds is not None


def test_an_encoder_costs_the_logits_of_masked_positions(values: dict[str, Any]) -> None:
    experiment = parse(Experiment, values | {"train": values["train"] | {"objective.mlm_probability": 0.25}})
    model = resolve(experiment)["m2"]
    counted = count_flops(model.config, 32, backward=True)
    assert model.training_flops_per_byte == pytest.approx(counted.total - 0.75 * counted.logits) and model.targets_per_step == 64
    steps = {cell.name: cell.options["steps"] for cell in final_cells(experiment, resolve(experiment), {})}
    assert steps["text/m2-seed0"] == 6 and steps["moods/m2-seed0"] == 12
    assert str(Budget(steps=1500)) == "1,500 steps a cell"


def test_regression_has_its_own_metrics(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "sizes.tsv"
    path.write_text("".join(f"{n}\t{'long ' * (n % 5)}text {n}\n" for n in range(60)))
    values |= {"data": {"sizes": values["data"]["fresh"] | {"paths": str(path)}}, "budget": None}
    values["data"]["sizes"]["labels"] |= {"set": {"problem_type": "regression"}}
    values["models"].pop("bert")
    outcome = compare(values, tmp_path / "out", jobs=0, quiet=True).outcomes[0]
    assert (outcome.status, outcome.error, outcome.accuracy) == ("done", "", None)
    assert outcome.loss["basic"] > 0 and set(outcome.metrics) == {"pearson", "spearman"}


def test_fine_tuning_fails_where_pretraining_failed(values: dict[str, Any], tmp_path: Path) -> None:
    empty = tmp_path / "short.txt"
    empty.write_bytes(b"x")
    values["data"]["text"]["paths"] = [str(empty)]
    values["models"].pop("bert")
    results = compare(values, tmp_path / "out", jobs=0, quiet=True)
    assert {outcome.data: outcome.status for outcome in results.outcomes} == {"text": "failed", "moods": "failed", "fresh": "done"}
    error = results.finals("m2", "moods")[0].error
    assert "it starts from text/m2-seed0, which is failed" in error


def test_other_data_and_the_quick_version(values: dict[str, Any], table: Path) -> None:
    values["data"]["moods"]["labels"]["test"] = [str(table)]
    experiment = parse(Experiment, values)
    changed = with_data(experiment, {"moods": ["other.tsv"]}).data["moods"].labels
    assert changed is not None and changed.test == () and changed.init == "text"
    quick = quick_version(experiment)
    assert quick.budget == Budget(steps=2) and quick.data["moods"].labels is not None and quick.data["moods"].labels.steps == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": {"steps": 1, "init": "txt"}}, "init 'txt' is not one of the data sets"),
        ({"labels": {"steps": 1, "init": "moods"}}, "init 'moods' is not one of the data sets"),
        ({"labels": {"steps": 1}, "task": "reverse"}, "leave out one of them"),
        ({"labels": {"steps": 0}}, "greater than 0"),
        ({"labels": {"steps": 1, "set": {"dropot": 0.1}}}, "data.moods, models.bert: unknown key 'dropot'"),
        ({"labels": {"steps": 1, "train": {"data.window": 8}}}, "'data.window' is set by the experiment"),
        ({"labels": {"steps": 1, "train": {"batch": 0}}}, "greater than 0"),
        ({"task": "reverse"}, "data.moods is a task, which bert with the objective 'masked_lm' cannot learn"),
        ({"only": ["bert", "gpt"]}, "the loss of bert is in nats per masked position and that of gpt in bits per byte"),
    ],
)
def test_a_wrong_experiment_is_an_error_before_anything_runs(
    values: dict[str, Any], tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    values["models"]["gpt"] = {"preset": "transformer-tiny", "set": TINY}
    values["data"]["text"]["only"] = ["bert", "m2"]
    values["data"]["moods"] = {"paths": values["data"]["moods"]["paths"], "only": ["bert"]} | change
    with pytest.raises(ValueError, match=sentence):
        compare(values, tmp_path / "out", jobs=0, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_a_classifier_is_an_error_with_its_name(values: dict[str, Any]) -> None:
    values["data"]["fresh"]["labels"]["set"] = {"pooling": "last"}
    experiment = parse(Experiment, values)
    with pytest.raises(ValueError, match=r"data.fresh, models.\w+.*pooling is for causal models"):
        final_cells(experiment, resolve(experiment), {})


def test_an_objective_without_a_cost_per_byte_needs_a_budget_in_steps(values: dict[str, Any]) -> None:
    values["models"] = {"m2": {"preset": "m2-bert-tiny", "set": TINY | {"head": "none"}}}
    values["data"] = {"pairs": {"paths": "pairs.tsv"}}
    experiment = parse(Experiment, values | {"budget": {"bytes": 640}})
    with pytest.raises(ValueError, match="models.m2: the objective 'contrastive' has no cost per byte: use a budget of steps or seconds"):
        final_cells(experiment, resolve(experiment), {})
    experiment = parse(Experiment, values | {"budget": {"steps": 7}})
    assert [cell.options["steps"] for cell in final_cells(experiment, resolve(experiment), {})] == [7]


def test_an_experiment_of_labels_alone_has_no_budget(values: dict[str, Any]) -> None:
    values["data"] = {"fresh": values["data"]["fresh"]}
    with pytest.raises(ValueError, match="labels with their own steps: leave out the budget"):
        parse(Experiment, values)
    experiment = parse(Experiment, values | {"budget": None})
    assert [cell.name for cell in final_cells(experiment, resolve(experiment), {})] == ["fresh/m2-seed0"]
    assert quick_version(experiment).budget is None


def test_learning_rates_cannot_be_chosen_on_labels(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has labels: name data without labels"):
        parse(Experiment, values | {"rates": {"among": [0.1], "data": "moods"}})


def test_tables_of_an_empty_comparison_are_empty() -> None:
    empty = Results("", "", "", "", "", (), (), ())
    assert main_table(empty).rows == [] and metric_table(empty).rows == []
