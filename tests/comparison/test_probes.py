"""Probes: the chain rule for a model of bytes, and what counts as spelled right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subquad.comparison.probes import spelled_backwards, trailing_space
from subquad.models.base import CausalModel
from subquad.models.language_model import transformer


@pytest.fixture
def model() -> CausalModel:
    torch.manual_seed(0)
    model = transformer(8, 1, 2, 512).build().eval()
    assert isinstance(model, CausalModel)
    return model


def test_for_a_model_of_bytes_it_does_not_matter_where_a_prompt_is_cut(model: CausalModel) -> None:
    before, after = trailing_space(model, b"a text of words that are long enough " * 20, words=3)
    assert before["words"] == after["words"] == 3
    assert before["bits a word"] == pytest.approx(after["bits a word"], abs=0.002) and before["bits a word"] > 5


def test_words_are_counted_by_length(model: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(model: CausalModel, prompts: list[bytes], **options: Any) -> list[bytes]:
        assert prompts == [b"\nabc=", b"\nword=", b"\ntext="]
        return [b"cba", b"drow", b"text"]

    monkeypatch.setattr("subquad.api.generate", generate)
    rows = spelled_backwards(model, b"cut=tuc\nabc=cba\nword=drow\nabc=cba\ntext=txet\nmore=", 3)
    assert [(row["prompt"], row["words"], row["right"]) for row in rows] == [
        ("3 letters", 1, "100%"),
        ("4 letters", 2, "50%"),
        ("all", 3, "67%"),
    ]
