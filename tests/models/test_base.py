"""What every model shares: the doors that ask for one kind of model look inside of wrappers, and say what they got otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import subquad
from subquad.config import with_changes
from subquad.models import build_model, describe, parse_model
from subquad.models.base import causal_model, expect_model, unwrap
from subquad.models.encoder import Encoder

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # what torch.compile imports

CLASSIFIER = {"kind": "classifier", "backbone": "m2-bert-tiny", "classes": ["a", "b"]}


class Foreign(nn.Module):
    """Looks like a model of any kind by its attributes, and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)

    def init_state(self, batch: int) -> None:
        """A method of that name."""


def compiled(module: nn.Module) -> nn.Module:
    wrapped: object = torch.compile(module)
    assert isinstance(wrapped, nn.Module)
    return wrapped


def test_a_config_is_told_in_words() -> None:
    assert describe(parse_model("hyena-tiny")) == "hyena-tiny"
    assert describe(with_changes(parse_model("hyena-tiny"), {"vocab": 4096, "max_len": 64})) == "hyena-tiny (max_len=64, vocab=4096)"
    assert describe(parse_model({**CLASSIFIER, "backbone": "hyena-tiny"})) == "classifier on hyena-tiny"
    assert describe(parse_model(CLASSIFIER)) == "classifier on m2-bert-tiny"  # whose own head it does without
    stage = {"dim": 4, "depth": 1, "mixer": {"kind": "attention", "heads": 1}}
    assert describe(parse_model({"kind": "megabyte", "max_len": 8, "patch_size": 2, "stages": [stage] * 2})) == "megabyte"


def test_wrappers_are_looked_through() -> None:
    model = build_model("transformer-tiny")
    for wrapped in (model, compiled(model), nn.DataParallel(model), compiled(nn.DataParallel(model))):
        assert unwrap(wrapped) is model
        assert causal_model(wrapped, "a test") is model
    foreign = Foreign()
    assert unwrap(foreign) is foreign


def test_a_model_of_another_kind_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="an encoder, not Foreign"):
        expect_model(nn.DataParallel(Foreign()), Encoder, "an encoder, not {}")
    with pytest.raises(ValueError, match="a test needs a causal model, got Encoder"):
        causal_model(compiled(build_model("bert-tiny")), "a test")
    with pytest.raises(ValueError, match="got Classifier: a classifier predicts labels: use it with subquad classify, or take a language"):
        causal_model(build_model(CLASSIFIER), "a test")


@torch.no_grad()
def test_wrapped_models_pass_the_doors_and_foreign_ones_do_not() -> None:
    causal, encoder, classifier = (build_model(config).eval() for config in ("transformer-tiny", "bert-tiny", CLASSIFIER))
    assert subquad.score(nn.DataParallel(causal), b"text").bits_per_byte == subquad.score(causal, b"text").bits_per_byte
    assert torch.equal(subquad.embed(nn.DataParallel(encoder), ["text"]), subquad.embed(encoder, ["text"]))
    assert subquad.classify(nn.DataParallel(classifier), ["text"]) == subquad.classify(classifier, ["text"])
    with pytest.raises(ValueError, match="needs a causal model, got Foreign"):
        subquad.score(Foreign(), b"text")
    with pytest.raises(ValueError, match="expected a model of this library, got Foreign"):
        subquad.embed(Foreign(), ["text"])
    with pytest.raises(ValueError, match="expected a classifier, got Foreign"):
        subquad.classify(Foreign(), ["text"])
