"""The grid: its cells, their numbers of steps, and sizes chosen by cost."""

from __future__ import annotations

from typing import Any

import pytest

from subquad.comparison.experiment import Budget, Experiment
from subquad.comparison.grid import final_cells, rate_cells, resolve, steps_for
from subquad.config import parse, with_changes
from subquad.evaluation.flops import count_flops
from subquad.models.megabyte import MegabyteConfig


def test_the_grid_is_models_times_data_times_seeds(experiment: Experiment) -> None:
    models = resolve(experiment)
    rates = rate_cells(experiment, models)
    assert [(cell.model, cell.lr, cell.role) for cell in rates] == [("transformer", 0.001, "rate"), ("transformer", 0.01, "rate")]
    finals = final_cells(experiment, models, {"transformer": 0.001})
    assert [cell.name for cell in finals] == [f"text/{model}-seed{seed}" for seed in (0, 1) for model in ("megabyte", "transformer")]
    assert {cell.model: cell.lr for cell in finals} == {"megabyte": 0.01, "transformer": 0.001}
    assert len({cell.name for cell in [*rates, *finals]}) == 6


def test_a_budget_gives_a_number_of_steps(experiment: Experiment) -> None:
    model = resolve(experiment)["transformer"]
    assert model.targets_per_step == 64
    assert steps_for(Budget(bytes=640), model, "transformer") == 10
    assert model.training_flops_per_byte is not None
    assert steps_for(Budget(flops=640 * model.training_flops_per_byte), model, "transformer") == 10
    assert steps_for(Budget(bytes=1), model, "transformer") == 1
    assert rate_cells(experiment, resolve(experiment))[0].options["steps"] == 5


def test_options_may_be_nested(values: dict[str, Any]) -> None:
    values["models"]["transformer"]["train"] = {"data": {"window": 16}, "optim": {"lr": 0.02}}
    experiment = parse(Experiment, values | {"rates": None})
    models = resolve(experiment)
    assert models["transformer"].targets_per_step == 32
    cells = {cell.model: cell for cell in final_cells(experiment, models, {})}
    assert cells["transformer"].lr == 0.02 and cells["transformer"].options["steps"] == 20


def test_every_model_is_validated_on_as_many_bytes(experiment: Experiment) -> None:
    for cell in final_cells(experiment, resolve(experiment), {}):
        assert cell.options["eval.windows"] * 32 == 32_768
        assert cell.options["data.split_seed"] == 0


def test_targets_are_the_positions_that_a_drawn_span_learns() -> None:
    config = {"preset": "perceiver-ar-tiny", "set": {"max_len": 32, "latents": 16}}
    experiment = parse(
        Experiment, {"title": "", "about": "", "models": {"p": config}, "data": {"t": {"paths": ["x"]}}, "budget": {"bytes": 640}}
    )
    model = resolve(experiment)["p"]
    assert model.targets_per_step == 8 * 16


def test_a_size_is_chosen_by_cost(values: dict[str, Any]) -> None:
    solve = {"like": "transformer", "among": {"stages.0.depth": [1, 2, 8], "stages.1.depth": [1, 2]}, "within": 0.5}
    values["models"]["megabyte"]["solve"] = solve
    models = resolve(parse(Experiment, values))
    target = count_flops(models["transformer"].config, backward=True).total
    costs = {}
    for deep in solve["among"]["stages.0.depth"]:  # type: ignore[index]
        for thin in solve["among"]["stages.1.depth"]:  # type: ignore[index]
            config = with_changes(models["megabyte"].config, {"stages.0.depth": deep, "stages.1.depth": thin})
            costs[deep, thin] = abs(count_flops(config, backward=True).total / target - 1)
    solved = models["megabyte"].config
    assert isinstance(solved, MegabyteConfig)
    assert costs[solved.stages[0].depth, solved.stages[1].depth] == min(costs.values())
    assert "as much per byte as transformer" in models["megabyte"].note
    with pytest.raises(ValueError, match=r"models.megabyte: the nearest size, .* as much as transformer: widen"):
        values["models"]["megabyte"]["solve"] = solve | {"within": 1e-6}
        resolve(parse(Experiment, values))


def test_a_model_that_cannot_be_built_is_an_error_with_its_name(values: dict[str, Any]) -> None:
    solve = {"among": {"max_len": [32]}}
    circle = {
        "a": {"preset": "transformer-tiny", "solve": {"like": "b"} | solve},
        "b": {"preset": "transformer-tiny", "solve": {"like": "a"} | solve},
    }
    for models, sentence in [
        (circle, "a, b refer to each other in solve.like"),
        ({"a": {"preset": "transformer-tinny"}}, "models.a: unknown preset"),
        ({"a": {"preset": "transformer-tiny", "set": {"stack.dpth": 2}}}, "models.a: unknown key 'dpth'"),
        ({"a": {"preset": "transformer-tiny", "train": {"optim.rate": 2}}}, "models.a: unknown key 'rate'"),
        (
            {"a": {"preset": "transformer-tiny", "train": {"model": {"max_len": 8}}}},
            "models.a: the training option 'model.max_len' is set by the experiment",
        ),
        (
            {"a": {"preset": "transformer-tiny", "train": {"steps": 8}}},
            "models.a: the training option 'steps' is set by the experiment",
        ),
    ]:
        with pytest.raises(ValueError, match=sentence):
            resolve(parse(Experiment, values | {"models": models}))
