"""Encoders in a comparison, and labels: what is hidden of a text, then classifiers that begin from these runs."""

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

TINY = {"stack.dim": 16, "max_len": 32}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "moods.tsv"
    path.write_text("".join(f"{('bad', 'good')[n % 2]}\t{('poor', 'fine')[n % 2]} {n}\n" for n in range(60)))
    return path


@pytest.fixture
def values(values: dict[str, Any], table: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two encoders on a text and then on labels, which fresh weights learn too."""
    monkeypatch.setattr("subquad.comparison.runner.machine", lambda: "not measured here, which takes seconds")
    labels = {"steps": 12, "columns": {"text": 1, "label": 0}, "train": {"batch": 8, "optim.lr": 0.02}}
    moods = {"paths": str(table), "fractions": [0.6, 0.2, 0.2]}
    return values | {
        "models": {"bert": {"preset": "bert-tiny", "set": TINY}, "m2": {"preset": "m2-bert-tiny", "set": TINY}},
        "data": {
            "text": values["data"]["text"],
            "moods": moods | {"labels": labels | {"begin": "text", "set": {"dropout": 0.1}}},
            "fresh": moods | {"labels": labels, "only": ["m2"]},
        },
        "budget": {"steps": 6},
        "rates": None,
        "seeds": [0],
        "score": ["basic"],
    }


def test_labels_begin_from_what_was_hidden(values: dict[str, Any], tmp_path: Path, table: Path) -> None:
    out = tmp_path / "out"
    found = compare(parse(Experiment, values), out, jobs=0, quiet=True)
    assert [(one.cell, one.status, one.error) for one in found.outcomes] == [
        (f"{name}-seed0", "done", "") for name in ("text/bert", "text/m2", "moods/bert", "moods/m2", "fresh/m2")
    ]
    start = json.loads((out / "cells/moods/m2-seed0/run/config.json").read_text())
    assert start["kind"] == "classifier" and start["dropout"] == 0.1
    assert (out / "cells/text/m2-seed0/run").as_posix() in (out / "cells/moods/m2-seed0/run/train.yaml").read_text()
    assert "init: null" in (out / "cells/fresh/m2-seed0/run/train.yaml").read_text()

    one = found.finals("m2", "moods")[0]
    test = read_labelled([str(table)], columns=LabelColumns(text=1, label=0), fractions=(0.6, 0.2, 0.2)).test
    results = api.classify(api.load(out / "cells/moods/m2-seed0/run"), [text for text, _ in test])
    figures = api.classification_metrics(results, [label for _, label in test])
    assert figures == {"accuracy": one.accuracy} | one.metrics and len(one.accuracies) == len(one.curve) > 0
    nats = [-math.log(result.probabilities[str(label)]) for result, (_, label) in zip(results, test, strict=True)]
    assert one.loss == {"basic": pytest.approx(sum(nats) / len(nats))}
    assert one.scored_bytes == sum(len(text) for text, _ in test)
    assert one.training_flops_per_byte is None and one.curve[0][0] is None

    hidden = found.finals("bert", "text")[0]
    assert hidden.accuracy is None and 0 <= hidden.metrics["masked_accuracy"] <= 1 and 1 < hidden.loss["basic"] < 12
    assert hidden.ids_per_second and hidden.peak_bytes and hidden.state_bytes is None and hidden.training_bytes == 6 * 2 * 32
    assert results_from(json.loads((out / "results.json").read_text())) == found
    page = (out / "report.html").read_text()
    assert "Bits per byte" not in page and "nats per masked position" in page and "by training bytes" in page


def test_tables_say_what_bits_are_of(values: dict[str, Any], tmp_path: Path) -> None:
    found = compare(parse(Experiment, values), tmp_path / "out", jobs=0, quiet=True)
    main = main_table(found)
    assert main.title == "Loss" and "text in nats per masked position" in main.note and "moods in nats per label" in main.note
    assert accuracy_table(found).header == ["Model", "moods", "fresh"] and accuracy_table(found).rows[0][2] == "–"
    header, rows = metric_table(found).header, metric_table(found).rows
    assert header == [
        "Model",
        "text: accuracy at masked positions",
        *[f"{text}: {name}" for text in ("moods", "fresh") for name in ("F1", "Matthews correlation")],
    ]
    assert rows[0][1] == f"{found.finals('bert', 'text')[0].metrics['masked_accuracy']:.3f}" and rows[0][4] == "–"
    assert "## Other metrics" in markdown(found) and "less m2, loss: text" in markdown(found)
    times = [one.training_seconds for one in found.finals("m2", "text")]
    only = replace(found, outcomes=tuple(one for one in found.outcomes if one.flops_per_byte is not None))
    assert cost_table(found) == cost_table(only) and times[0] is not None
    lines = list(csv.DictReader(io.StringIO(csv_text(found), newline="")))
    assert [bool(line["matthews"]) for line in lines] == [False, False, True, True, True]


def test_an_encoder_costs_the_logits_that_it_is_asked_for(values: dict[str, Any]) -> None:
    experiment = parse(Experiment, values | {"train": values["train"] | {"objective.mlm_probability": 0.25}})
    model = resolve(experiment)["m2"]
    counted = count_flops(model.config, 32, backward=True)
    assert model.training_flops_per_byte == pytest.approx(counted.total - 0.75 * counted.logits) and model.targets_per_step == 64
    steps = {cell.name: cell.options["steps"] for cell in final_cells(experiment, resolve(experiment), {})}
    assert steps["text/m2-seed0"] == 6 and steps["moods/m2-seed0"] == 12
    assert str(Budget(steps=1500)) == "1,500 steps a cell"


def test_numbers_are_estimated(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "sizes.tsv"
    path.write_text("".join(f"{n}\t{'long ' * (n % 5)}text {n}\n" for n in range(60)))
    values |= {"data": {"sizes": values["data"]["fresh"] | {"paths": str(path)}}, "budget": None}
    values["data"]["sizes"]["labels"] |= {"set": {"problem_type": "regression"}}
    values["models"].pop("bert")
    one = compare(parse(Experiment, values), tmp_path / "out", jobs=0, quiet=True).outcomes[0]
    assert (
        (one.status, one.error, one.accuracy) == ("done", "", None)
        and one.loss["basic"] > 0
        and set(one.metrics) == {"pearson", "spearman"}
    )


def test_a_start_that_failed_is_told(values: dict[str, Any], tmp_path: Path) -> None:
    empty = tmp_path / "short.txt"
    empty.write_bytes(b"x")
    values["data"]["text"]["paths"] = [str(empty)]
    found = compare(parse(Experiment, values), tmp_path / "out", jobs=0, quiet=True)
    assert {one.data: one.status for one in found.outcomes} == {"text": "failed", "moods": "failed", "fresh": "done"}
    assert "it starts from text/m2-seed0, which is failed" in found.finals("m2", "moods")[0].error


def test_other_data_and_the_quick_version(values: dict[str, Any], table: Path) -> None:
    values["data"]["moods"]["labels"]["test"] = [str(table)]
    experiment = parse(Experiment, values)
    changed = with_data(experiment, {"moods": ["other.tsv"]}).data["moods"].labels
    assert changed is not None and changed.test == () and changed.begin == "text"
    quick = quick_version(experiment)
    assert quick.budget == Budget(steps=2) and quick.data["moods"].labels is not None and quick.data["moods"].labels.steps == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": {"steps": 1, "begin": "txt"}}, "begin 'txt' is not one of the data sets"),
        ({"labels": {"steps": 1, "begin": "moods"}}, "begin 'moods' is not one of the data sets"),
        ({"labels": {"steps": 1}, "task": "reverse"}, "leave out one of them"),
        ({"labels": {"steps": 0}}, "greater than 0"),
        ({"labels": {"steps": 1, "set": {"dropot": 0.1}}}, "data.moods, models.bert: unknown key 'dropot'"),
        ({"labels": {"steps": 1, "train": {"data.window": 8}}}, "'data.window' is set by the experiment"),
        ({"labels": {"steps": 1, "train": {"batch": 0}}}, "greater than 0"),
        ({"task": "reverse"}, "data.moods is a task, which bert with the objective 'masked_lm' cannot learn"),
        ({"only": ["bert", "gpt"]}, "the loss of bert is in nats per masked position and that of gpt in bits per byte"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(values: dict[str, Any], tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    values["models"]["gpt"] = {"preset": "transformer-tiny", "set": TINY}
    values["data"]["text"]["only"] = ["bert", "m2"]
    values["data"]["moods"] = {"paths": values["data"]["moods"]["paths"], "only": ["bert"]} | change
    with pytest.raises(ValueError, match=sentence):
        compare(values, tmp_path / "out", jobs=0, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"preset": "megabyte-tiny"}, "data.fresh, models.m2"),
    ],
)
def test_models_that_cannot_learn_it_are_named(values: dict[str, Any], model: dict[str, Any], sentence: str) -> None:
    values["models"]["m2"] = model
    values["data"]["text"]["only"] = values["data"]["moods"]["only"] = ["bert"]
    with pytest.raises(ValueError, match=sentence):
        experiment = parse(Experiment, values)
        final_cells(experiment, resolve(experiment), {})


def test_an_objective_without_a_cost_per_byte_needs_a_budget_in_steps(values: dict[str, Any]) -> None:
    values["models"] = {"m2": {"preset": "m2-bert-tiny", "set": TINY | {"head": "none"}}}
    values["data"] = {"pairs": {"paths": "pairs.tsv"}}
    experiment = parse(Experiment, values | {"budget": {"bytes": 640}})
    with pytest.raises(ValueError, match="models.m2: the objective 'contrastive' has no cost per byte: use a budget of steps or seconds"):
        final_cells(experiment, resolve(experiment), {})
    experiment = parse(Experiment, values | {"budget": {"steps": 7}})
    assert [cell.options["steps"] for cell in final_cells(experiment, resolve(experiment), {})] == [7]


def test_labels_alone_have_no_budget(values: dict[str, Any]) -> None:
    values["data"] = {"fresh": values["data"]["fresh"]}
    with pytest.raises(ValueError, match="labels with their own steps: leave out the budget"):
        parse(Experiment, values)
    experiment = parse(Experiment, values | {"budget": None})
    assert [cell.name for cell in final_cells(experiment, resolve(experiment), {})] == ["fresh/m2-seed0"]
    assert quick_version(experiment).budget is None


def test_rates_are_of_texts(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has labels: name data without labels"):
        parse(Experiment, values | {"rates": {"among": [0.1], "data": "moods"}})


def test_nothing_is_known_of_an_empty_grid() -> None:
    empty = Results("", "", "", "", "", (), (), ())
    assert main_table(empty).rows == [] and metric_table(empty).rows == []
