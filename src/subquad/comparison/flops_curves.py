"""FLOPs per byte against length, counted on the meta device for each model at each length."""

from __future__ import annotations

from subquad.comparison.experiment import Costs, CostSpec, ModelSpec
from subquad.comparison.grid import model_config
from subquad.comparison.results import CostCurve
from subquad.evaluation.flops import count_flops


def cost_curves(costs: Costs) -> tuple[CostCurve, ...]:
    """A curve for each model of the section; a context is made as long as the length asks for."""
    return tuple(_curve(name, spec, costs.lengths) for name, spec in costs.curves.items())


def _curve(name: str, spec: CostSpec, lengths: tuple[int, ...]) -> CostCurve:
    if spec.preset is None and spec.config is None:
        return CostCurve(name, (), (), spec.published, spec.note)
    flops = []
    for length in lengths:
        model = ModelSpec(preset=spec.preset, config=spec.config, set=spec.set | {"max_len": length})
        flops.append(count_flops(model_config(model), length).total)
    return CostCurve(name, lengths, tuple(flops), spec.published, spec.note)
