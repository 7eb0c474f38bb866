"""Curves of FLOPs per byte against length, counted on the meta device."""

from __future__ import annotations

from subquad.comparison.experiment import Costs, CostSpec, ModelSpec
from subquad.comparison.grid import model_config
from subquad.comparison.results import CostCurve
from subquad.evaluation.flops import count_flops


def cost_curves(costs: Costs) -> tuple[CostCurve, ...]:
    """One curve for each model of the section; at each length a model has a context of that length."""
    return tuple(_curve(name, spec, costs.lengths) for name, spec in costs.curves.items())


def _curve(name: str, spec: CostSpec, lengths: tuple[int, ...]) -> CostCurve:
    if spec.preset is None and spec.config is None:
        return CostCurve(name, (), (), spec.published, spec.note)
    models = [ModelSpec(preset=spec.preset, config=spec.config, set=spec.set | {"max_len": length}) for length in lengths]
    flops = tuple(count_flops(model_config(model), length).total for model, length in zip(models, lengths, strict=True))
    return CostCurve(name, lengths, flops, spec.published, spec.note)
