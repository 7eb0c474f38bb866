"""Serial layer calls and decoding states against what the models' shapes say."""

from __future__ import annotations

import pytest

from subquad.evaluation.decoding import layer_calls, measure_decoding
from subquad.layers.stack import Block
from subquad.models.base import CausalModel
from subquad.models.language_model import transformer
from subquad.models.megabyte import megabyte


def test_layer_calls_are_those_of_section_3_2() -> None:
    assert layer_calls(megabyte((16, 3, 2), (8, 2, 2), 4, 64).build(), 64) == 64 * 2 + 64 // 4 * 3
    assert layer_calls(transformer(8, 5, 2, 64).build(), 64) == 64 * 5


def test_counting_leaves_the_model_as_it_was() -> None:
    model = transformer(8, 1, 2, 64).build()
    layer_calls(model, 4)
    assert not any("prefill" in vars(module) for module in model.modules() if isinstance(module, Block))


@pytest.mark.parametrize("length", [8, 1000])
def test_the_state_is_that_of_the_whole_context(length: int) -> None:
    model = transformer(8, 2, 2, 64).build()
    assert isinstance(model, CausalModel)
    found = measure_decoding(model, length)
    assert found.state_bytes == 2 * 65 * 2 * 8 * 4 + 256 * 4  # keys and values of two layers, one position more; the next logits
    assert found.serial_steps == 2
