"""Classifying: every text as if it were alone, in the order given; figures from labels."""

from __future__ import annotations

import random

import pytest
import torch

import subquad
from subquad.inference import Classified, classification_metrics, classify, embed
from subquad.layers.hyena import HyenaConfig
from subquad.layers.stack import StackConfig
from subquad.models.classifier import Classifier, ClassifierConfig
from subquad.models.encoder import Encoder, EncoderConfig
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
    with pytest.raises(ValueError, match="texts must be a list of bytes or str, got a single bytes: put it into a list"):
        classify(model, b"hello")  # type: ignore[arg-type]
    assert classify(model, ["é"]) == classify(model, ["é".encode()])


@pytest.mark.parametrize("padding", ["masked", "official"])
def test_filters_are_prepared_once_for_texts_of_about_a_length(monkeypatch: pytest.MonkeyPatch, padding: str) -> None:
    torch.manual_seed(0)
    config = subquad.build("m2-bert-tiny", {"stack.dim": 16, "max_len": 100, "init_std": 0.3, "padding": padding, "head": "none"}).config
    assert isinstance(config, EncoderConfig)
    model = ClassifierConfig(backbone=config, classes=("a", "b")).build().double()
    assert isinstance(model.backbone, Encoder)
    prepared: list[int] = []
    whole = model.backbone.prepare

    def noted(length: int) -> object:
        prepared.append(length)
        return whole(length)

    monkeypatch.setattr(model.backbone, "prepare", noted)
    monkeypatch.setattr("subquad.inference.texts.BATCH_IDS", 60)
    texts = [b"x" * size for size in (50, 10, 12, 11, 52, 55, 100, 12)]
    vectors = embed(model.backbone, texts)
    found = classify(model, texts)
    lengths = [100] if padding == "official" else [12, 55, 100]
    assert prepared == lengths * 2, "once for each length and those a quarter above it, in either"
    ids = [torch.full((1, len(text)), ord("x")) for text in texts]
    with torch.no_grad():
        alone = [model.eval()(row).softmax(1)[0, 0].item() for row in ids]
    assert [one.probabilities["a"] for one in found] == pytest.approx(alone, abs=1e-9)
    if padding == "masked":
        with torch.no_grad():
            assert torch.allclose(vectors, torch.cat([model.backbone(row, output="embedding") for row in ids]), atol=1e-9)


def test_agreement_counts_what_has_a_label() -> None:
    results = [Classified(label, {"a": 0.5, "b": 0.5}) for label in "aabb"]
    assert classification_metrics(results, ["a", "b", "b", None]) == {
        "accuracy": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "matthews": 0.5,
    }
    assert classification_metrics(results, [None] * 4) is None and classification_metrics([], []) is None
    with pytest.raises(ValueError, match="the label 'x' is not one of the classes a, b"):
        classification_metrics(results, ["x", None, None, None])
