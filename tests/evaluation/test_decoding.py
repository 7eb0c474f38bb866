"""Serial layer calls and decoding states against what the models' shapes say."""

from __future__ import annotations

import pytest

from subquad.evaluation.decoding import layer_calls, measure_decoding
from subquad.layers.stack import Block
from subquad.models.base import CausalModel
from subquad.models.language_model import transformer
from subquad.models.megabyte import megabyte
from subquad.ops.rotary import STEPS


def test_layer_calls_are_those_of_section_3_2() -> None:
    assert layer_calls(megabyte((16, 3, 2), (8, 2, 2), 4, 64).build(), 64) == 64 * 2 + 64 // 4 * 3
    assert layer_calls(transformer(8, 5, 2, 64).build(), 64) == 64 * 5


@pytest.mark.parametrize("length", [1, 16, 20, 512])
def test_every_patch_costs_what_the_first_costs(length: int) -> None:
    model = megabyte((16, 3, 2), (8, 2, 2), 16, 64).build()
    assert isinstance(model, CausalModel) and measure_decoding(model, length).serial_steps == 2 + 3 / 16


def test_counting_leaves_the_model_as_it_was() -> None:
    model = transformer(8, 1, 2, 64).build()
    layer_calls(model, 4)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert blocks and all(block.prefill == Block.prefill.__get__(block) for block in blocks)


@pytest.mark.parametrize("length", [8, 1000])
def test_the_state_is_that_of_the_whole_context(length: int) -> None:
    model = transformer(8, 2, 2, 64).build()
    assert isinstance(model, CausalModel)
    found = measure_decoding(model, length)
    keys_and_values = 2 * 65 * 2 * 8  # of two layers, one position more
    rotation = 2 * STEPS * 2 * 4  # of two layers, cosines and sines of a head's four channels
    assert found.state_bytes == 4 * (keys_and_values + rotation + 256)  # and the next logits
    assert found.serial_steps == 2
