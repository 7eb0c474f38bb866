"""Values as callers have them: paths, NumPy's numbers and arrays, tuples; and one sentence for what cannot be meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import subquad
from subquad.models.base import CausalModel


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return subquad.build("transformer-tiny", {"max_len": np.int64(64)}).eval()


def test_numbers_of_numpy_and_whole_floats_count(model: nn.Module) -> None:
    plain = subquad.generate(model, [b"a", b"b"], max_bytes=4, top_k=5, temperature=0.5, seed=[1, 2])
    values: dict[str, Any] = {"max_bytes": np.int32(4), "top_k": 5.0, "temperature": np.float32(0.5)}
    seeds: list[Any] = [(1, 2), np.array([1, 2])]
    for seed in seeds:
        assert subquad.generate(model, (b"a", b"b"), **values, seed=seed) == plain
    text: Any = np.frombuffer(b"some text", np.uint8)
    overlap: Any = np.int64(3)
    assert subquad.score(model, text, overlap=overlap).bits_per_byte == subquad.score(model, b"some text", overlap=3).bits_per_byte
    assert "bits_per_byte=" in repr(subquad.score(model, b"some text")) and "bits_per_byte=None" in repr(subquad.score(model, b""))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"top_k": 5.5}, "top_k must be a whole number, got 5.5"),
        ({"top_k": "5"}, "top_k must be a whole number, got '5'"),
        ({"temperature": "1"}, "temperature must be a number, got '1'"),
        ({"top_p": [0.5]}, r"top_p must be a number, got \[0.5\]"),
        ({"max_bytes": "9"}, "max_bytes must be a whole number, got '9'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
    ],
)
def test_an_option_of_a_wrong_type_is_named(model: nn.Module, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        subquad.generate(model, b"a", **options)


def test_ids_of_a_wrong_shape_are_one_sentence(model: nn.Module) -> None:
    assert isinstance(model, CausalModel)
    for call in (model, lambda ids: model.prefill(ids, model.init_state(1))):
        with pytest.raises(ValueError, match=r"ids must be \(batch, length\), got the shape \(5,\): one text is ids\[None\]"):
            call(torch.arange(5))
        with pytest.raises(ValueError, match="ids must be whole numbers, got torch.float32"):
            call(torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"a step takes one id a row, \(batch,\)"):
        model.step(torch.zeros(1, 1, dtype=torch.long), model.init_state(1))
    assert model(torch.zeros(0, 5, dtype=torch.long)).shape == (0, 5, 256)
