"""What simple predictors need: all of a small text is read, a period costs nothing, and noise what it holds."""

from __future__ import annotations

import lzma
import math

import numpy as np
import pytest

from subquad.data.baselines import markov_bits, some_text, xz_bits
from subquad.data.windows import whole_span


def test_many_small_documents_are_all_read() -> None:
    texts = [f"note {number}. ".encode() for number in range(500)]
    spans = [whole_span(text, str(number)) for number, text in enumerate(texts)]
    whole = some_text(spans, 1 << 20)
    assert len(whole) == sum(map(len, texts)) and all(text in whole for text in texts)
    assert some_text(spans, 100) == whole[:100] and some_text(spans, 0) == b""


def test_xz_goes_on_from_what_it_has_read() -> None:
    text = np.random.default_rng(0).bytes(2000)
    alone = 8 * (len(lzma.compress(text)) - len(lzma.compress(b""))) / len(text)
    assert alone > 8 and xz_bits(b"", text) == pytest.approx(alone, abs=0.2) and xz_bits(text, text) < 0.3


def test_a_markov_model_knows_a_period_and_not_noise() -> None:
    period = np.tile(np.array([7, 8, 9, 10, 10], dtype=np.uint8), 4000)
    bits, order = markov_bits(period[:15000], period[15000:])
    assert order == 3 and 0 < bits < 0.01
    noise = np.random.default_rng(0).integers(7, 11, 40000).astype(np.uint8)
    bits, order = markov_bits(noise[:30000], noise[30000:])
    assert order == 4 and bits == pytest.approx(2, abs=0.05)


def test_a_markov_model_of_order_0_is_counted_by_hand() -> None:
    bits, order = markov_bits(np.array([1, 1, 2]), np.array([1, 2]))
    assert order == 0 and bits == pytest.approx(-(math.log2(3 / 5) + math.log2(2 / 5)) / 2)
