"""Sampling: which ids can be drawn, how often, and from which random numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.errors import RunError
from subquad.inference.sampling import Sampling, draw, probabilities
from tests.inference.slow_sampling import slow_probabilities

PROBS = torch.tensor([[0.05, 0.4, 0.1, 0.25, 0.2]], dtype=torch.float64)
LOGITS = PROBS.log()


def support(sampling: Sampling, logits: Tensor = LOGITS) -> list[int]:
    return [int(index) for index in probabilities(logits, sampling)[0].nonzero()]


def generators(seed: int, rows: int = 1) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for _ in range(rows)]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 1.0}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.86}, [1, 2, 3, 4]),
        ({"min_p": 0.0}, [0, 1, 2, 3, 4]),
        ({"min_p": 0.49}, [1, 3, 4]),
        ({"min_p": 1.0}, [1]),
        ({"temperature": 0.0}, [1]),
        ({"temperature": 1e-300}, [1]),
        ({"top_k": 2, "top_p": 0.6}, [1]),
        ({"top_k": 4, "min_p": 0.3}, [1, 3, 4]),
    ],
)
def test_supports_are_exact(options: dict[str, Any], kept: list[int]) -> None:
    assert support(Sampling(**options)) == kept


@pytest.mark.parametrize("vocab", [2, 256, 5000])
@pytest.mark.parametrize("options", [{}, {"top_k": 7}, {"top_p": 0.9}, {"top_p": 0.999}, {"min_p": 0.02}, {"temperature": 0.0}])
@pytest.mark.parametrize("more", [{}, {"top_k": 40, "top_p": 0.8, "min_p": 0.01, "repetition_penalty": 1.3, "temperature": 0.7}])
@pytest.mark.parametrize("spread", [0.01, 4.0])
def test_the_fast_way_keeps_what_the_slow_one_keeps(vocab: int, options: dict[str, Any], more: dict[str, Any], spread: float) -> None:
    """Of flat distributions nearly all ids are in the nucleus; rounded logits make many of them equal."""
    random = torch.Generator().manual_seed(vocab)
    logits = (spread * torch.randn(3, vocab, generator=random)).mul(8).round() / 8
    seen, allowed = (torch.rand(3, vocab, generator=random) < 0.5 for _ in range(2))
    allowed[:, 0] = True
    sampling = Sampling(**(more | options))
    for masks in ((None, None), (seen, allowed)):
        fast, slow = probabilities(logits, sampling, *masks), torch.from_numpy(slow_probabilities(logits, sampling, *masks))
        assert torch.equal(fast > 0, slow > 0)
        torch.testing.assert_close(fast, slow, rtol=1e-14, atol=0)


def test_top_k_of_equal_logits_keeps_exactly_k() -> None:
    assert support(Sampling(top_k=3), torch.zeros(1, 6)) == [0, 1, 2]


def test_kept_ids_keep_their_proportions_and_temperature_is_a_power() -> None:
    kept = probabilities(LOGITS, Sampling(top_k=2, temperature=0.5))[0]
    assert float(kept[1] / kept[3]) == pytest.approx((0.4 / 0.25) ** 2, rel=1e-12)


def test_frequencies_follow_the_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5)
    for _ in range(4000):
        counts[draw(LOGITS, Sampling(), [generator])[0]] += 1
    assert (counts / 4000 - PROBS[0]).abs().max() < 0.03


def test_a_draw_is_the_inverse_cdf_of_one_uniform_number() -> None:
    ours, theirs = generators(3)[0], generators(3)[0]
    edges = PROBS[0].cumsum(0).tolist()
    for _ in range(200):
        uniform = float(torch.rand((), generator=theirs, dtype=torch.float64))
        assert draw(LOGITS, Sampling(), [ours]) == [sum(edge <= uniform for edge in edges)]


def test_rounding_never_draws_an_impossible_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for uniform, expected in [(0.0, 1), (1 - 2**-53, 3), (1.0, 3)]:
        monkeypatch.setattr(torch, "rand", lambda *_, uniform=uniform, **__: torch.tensor(uniform, dtype=torch.float64))
        logits = torch.tensor([[-math.inf, 0.0, -1.0, 2.0, -math.inf]])
        assert draw(logits, Sampling(), generators(0)) == [expected]


def test_repetition_penalty_as_hugging_face() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.0]], dtype=torch.float64)
    seen = torch.tensor([[True, True, False, True]])
    expected = torch.tensor([[2.0 / 1.5, -2.0 * 1.5, 1.0, 0.0]], dtype=torch.float64).softmax(-1)
    found = probabilities(logits, Sampling(repetition_penalty=1.5), seen)
    torch.testing.assert_close(found / found.sum(), expected)


def test_only_allowed_ids_count_before_the_filters() -> None:
    allowed = torch.tensor([[True, False, True, False, True]])
    assert probabilities(LOGITS, Sampling(top_k=2), allowed=allowed)[0].nonzero()[:, 0].tolist() == [2, 4]
    assert draw(LOGITS, Sampling(temperature=0), generators(0), allowed=allowed) == [4]


def test_a_row_draws_what_it_draws_alone() -> None:
    logits = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(temperature=0.9, top_p=0.9)
    alone = [draw(row[None], sampling, generators(7))[0] for row in logits]
    assert draw(logits, sampling, generators(7, 5)) == alone


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(RunError, match="not finite"):
        draw(torch.tensor([[0.0, bad, 1.0]]), Sampling(), generators(0))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampling(**options)
