"""Classifying: every text as if it were alone, in the order given; figures from labels."""

from __future__ import annotations

import random

import pytest
import torch

from subquad.inference import Classified, agreement, classify
from subquad.layers.hyena import HyenaConfig
from subquad.layers.stack import StackConfig
from subquad.models.classifier import Classifier, ClassifierConfig
from subquad.models.language_model import LanguageModelConfig


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    backbone = LanguageModelConfig(max_len=40, init_std=0.5, stack=StackConfig(dim=16, depth=1, mixer=HyenaConfig()))
    return ClassifierConfig(backbone=backbone, classes=("a", "b", "c")).build().double()


def test_every_text_is_classified_as_if_alone(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subquad.inference.texts.BATCH_IDS", 90)
    draw = random.Random(0)
    texts = [draw.randbytes(draw.randrange(41)) for _ in range(30)]
    together = classify(model, texts)
    assert model.training
    for text, found in zip(texts, together, strict=True):
        (alone,) = classify(model, [text])
        assert found.label == alone.label == max(found.probabilities, key=found.probabilities.__getitem__)
        assert list(found.probabilities) == ["a", "b", "c"] and sum(found.probabilities.values()) == pytest.approx(1)
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-9)
    assert classify(model, []) == []
    with pytest.raises(ValueError, match="texts must be a list of bytes or str, got one bytes: put it into a list"):
        classify(model, b"hello")  # type: ignore[arg-type]
    assert classify(model, ["é"]) == classify(model, ["é".encode()])


def test_agreement_counts_what_has_a_label() -> None:
    results = [Classified(label, {"a": 0.5, "b": 0.5}) for label in "aabb"]
    assert agreement(results, ["a", "b", "b", None]) == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3), "matthews": 0.5}
    assert agreement(results, [None] * 4) is None and agreement([], []) is None
    with pytest.raises(ValueError, match="the label 'x' is none of the classes a, b"):
        agreement(results, ["x", None, None, None])
