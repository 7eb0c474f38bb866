"""The order of samples: a permutation in every epoch, another one for every epoch and seed, and a pure function of the number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.data.shuffle import Order, generator


@given(st.integers(1, 5000), st.integers(0, 2**70), st.integers(0, 2**40))
def test_each_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    epochs, places = Order(count, seed).at(np.arange(count) + epoch * count)
    assert (epochs == epoch).all() and sorted(places.tolist()) == list(range(count))


@given(st.integers(1, 1000), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**50), min_size=1, max_size=20))
def test_a_sample_is_the_same_alone_and_in_company(count: int, seed: int, numbers: list[int]) -> None:
    order = Order(count, seed)
    epochs, places = order.at(np.array(numbers))
    assert (epochs == np.array(numbers) // count).all()
    for row, number in enumerate(numbers):
        assert order.at(np.array([number]))[1][0] == places[row] == Order(count, seed).at(np.array([number]))[1][0]


def test_epochs_and_seeds_differ_and_look_random() -> None:
    count = 10_000
    numbers = np.arange(2 * count)
    _, places = Order(count, 0).at(numbers)
    _, others = Order(count, 1).at(numbers)
    for one, two in ((places[:count], places[count:]), (places[:count], others[:count]), (places[:count], np.arange(count))):
        assert np.mean(one == two) < 0.002
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.04


def test_random_numbers_differ_by_seed_purpose_and_number() -> None:
    keys = [(0, "order"), (0, "masks"), (1, "order"), (0, "order", 0), (0, "order", 1), (0, "order", 0, 1), (1 << 32, "order")]
    draws = [generator(seed, purpose, *numbers).integers(1 << 62) for seed, purpose, *numbers in keys]  # type: ignore[arg-type]
    assert len(set(draws)) == len(keys)
    assert generator(5, "order", 7).integers(1 << 62) == generator(5, "order", 7).integers(1 << 62)


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Order(0, 0)
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        Order(3, 0).at(np.array([-1]))
