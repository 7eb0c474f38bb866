"""Numbers and texts for people: three digits and a unit, and nothing that cannot be seen."""

from __future__ import annotations

import pytest

from subquad.format import count, duration, visible


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (163_840, "164 kB"), (999_950, "1.00 MB"), (3.4e6, "3.40 MB"), (1.3e9, "1.30 GB")],
)
def test_counts_have_three_digits_and_a_unit(number: float, words: str) -> None:
    assert count(number, "B") == words


def test_counts_without_a_unit_are_one_word() -> None:
    assert [count(number) for number in (12, 3.41e6, 125e6, None)] == ["12", "3.41M", "125M", "–"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.2 s"), (59.96, "1 min 0 s"), (185, "3 min 5 s"), (3600, "1 h 0 min"), (7800, "2 h 10 min"), (200_000, "2 d 7 h")],
)
def test_times_have_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("a\x07\u202e\udcff é\n\ud800") == "a\\x07\\u202e\\xff é\n\\ud800"
    assert visible("a\nb", keep="") == "a\\x0ab"
