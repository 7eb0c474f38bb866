"""The UTF-8 state machine against Python's own decoder."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from subquad.inference.utf8 import BETWEEN, Utf8State, advance, allowed, state_after


def run(data: bytes) -> Utf8State | None:
    state: Utf8State | None = BETWEEN
    for byte in data:
        state = None if state is None else advance(state, byte)
    return state


def valid(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_every_pair_and_every_edge_triple_agrees_with_the_decoder() -> None:
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF]
    edges += [0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    pairs = itertools.product(range(256), repeat=2)
    longer = itertools.chain(itertools.product(edges, repeat=3), itertools.product(edges, repeat=4))
    for data in map(bytes, itertools.chain(pairs, longer)):
        assert (run(data) == BETWEEN) == valid(data), data


@given(st.text(min_size=1), st.integers(0, 8))
def test_every_valid_text_can_be_written(text: str, spare: int) -> None:
    data, state = text.encode(), BETWEEN
    for index, byte in enumerate(data):
        assert allowed(state, len(data) - index + spare)[byte]
        state = advance(state, byte) or BETWEEN
    assert state == BETWEEN


@given(st.binary(max_size=12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_any_walk_ends_between_characters(prompt: bytes, left: int, random: np.random.Generator) -> None:
    state = state_after(prompt)
    left = max(left, state.needed)
    for remaining in range(left, 0, -1):
        choices = np.flatnonzero(allowed(state, remaining))
        assert choices.size
        state = advance(state, int(random.choice(choices))) or Utf8State(99)
    assert state == BETWEEN


@given(st.text(max_size=6))
def test_the_tail_of_a_valid_text_gives_its_state(text: str) -> None:
    data = text.encode()
    for cut in range(len(data) + 1):
        assert state_after(data[:cut]) == run(data[:cut])


def test_a_prompt_that_is_not_utf8_starts_at_its_last_open_character() -> None:
    assert state_after(b"\xff\xe2\x82") == Utf8State(1)
    assert state_after(b"\x80\x80\x80\x80") == BETWEEN
    assert state_after(b"\xe2\xe2") == Utf8State(2)
    assert state_after(b"\xe2a") == BETWEEN
