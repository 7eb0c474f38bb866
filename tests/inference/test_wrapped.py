"""A compiled or otherwise wrapped model does all that the model does, and it is the wrapper whose forward runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

import subquad
from subquad.models import build_model

TEXTS = [b"one", b"another text"]
ATTENTION = {"kind": "attention", "heads": 2, "rotary": False}
STACK = {"dim": 16, "depth": 1, "mixer": ATTENTION}
CAUSAL = {"kind": "language_model", "max_len": 16, "stack": STACK, "positions": "learned", "init_std": 0.5}
ENCODER = {"kind": "encoder", "max_len": 16, "stack": STACK | {"mixer": ATTENTION | {"two_sided": True}}, "init_std": 0.5}


@pytest.mark.parametrize(
    "wrap", [pytest.param(partial(torch.compile, backend="eager"), id="compiled"), pytest.param(nn.DataParallel, id="parallel")]
)
def test_a_wrapped_model_is_the_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    for config in (CAUSAL, ENCODER, {"kind": "classifier", "backbone": CAUSAL, "classes": ["a", "b"]}):
        model = build_model(config).double()
        wrapped = wrap(model)
        if config is CAUSAL:
            assert subquad.generate(wrapped, b"one", max_bytes=20) == subquad.generate(model, b"one", max_bytes=20)
            torch.testing.assert_close(subquad.embed(wrapped, TEXTS), subquad.embed(model, TEXTS))
            assert subquad.score(wrapped, b"some text").total_bits == pytest.approx(subquad.score(model, b"some text").total_bits)
        elif config is ENCODER:
            torch.testing.assert_close(subquad.embed(wrapped, TEXTS), subquad.embed(model, TEXTS))
        else:
            expected = [result.probabilities for result in subquad.classify(model, TEXTS)]
            assert [result.probabilities for result in subquad.classify(wrapped, TEXTS)] == [pytest.approx(each) for each in expected]
        assert model.training, "the mode is given back"


def test_scoring_embedding_and_classifying_run_the_compiled_forward() -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    calls: list[tuple[dict[str, object], Callable[[nn.Module], object]]] = [
        (CAUSAL, lambda model: subquad.score(model, b"some text")),
        (ENCODER, lambda model: subquad.embed(model, TEXTS)),
        ({"kind": "classifier", "backbone": CAUSAL, "classes": ["a", "b"]}, lambda model: subquad.classify(model, TEXTS)),
    ]
    for config, call in calls:
        before = len(graphs)
        call(torch.compile(build_model(config), backend=backend))  # type: ignore[arg-type]
        assert len(graphs) > before, config["kind"]
