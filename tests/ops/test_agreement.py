"""Accuracy, F1, Matthews', Pearson's and Spearman's correlation against their definitions, written out one prediction at a time."""

from __future__ import annotations

import math

import pytest
import torch

from subquad.ops.agreement import accuracy, confusion, f1, figures, matthews, number_figures, pearson, spearman


def counted(true: list[int], predicted: list[int], kind: int) -> tuple[int, int, int, int]:
    """TP, FP, FN, TN of a class."""
    pairs = [(a == kind, b == kind) for a, b in zip(true, predicted, strict=True)]
    return tuple(pairs.count(pair) for pair in ((True, True), (False, True), (True, False), (False, False)))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(5))
def test_two_classes(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    true, predicted = (torch.randint(2, (40,), generator=draw) for _ in range(2))
    counts = confusion(true, predicted, 2)
    tp, fp, fn, tn = counted(true.tolist(), predicted.tolist(), 1)
    assert counts.tolist() == [[tn, fp], [fn, tp]]
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert accuracy(counts) == pytest.approx((tp + tn) / 40)
    assert f1(counts) == pytest.approx(2 * precision * recall / (precision + recall))
    assert matthews(counts) == pytest.approx((tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


@pytest.mark.parametrize("seed", range(5))
def test_more_classes(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    true, predicted = (torch.randint(4, (60,), generator=draw) for _ in range(2))
    counts = confusion(true, predicted, 5)  # a class that does not occur counts for nothing
    each = []
    for kind in range(4):
        tp, fp, fn, _ = counted(true.tolist(), predicted.tolist(), kind)
        each.append(2 * tp / (2 * tp + fp + fn))
    assert f1(counts) == pytest.approx(sum(each) / 4)
    one, other = (torch.nn.functional.one_hot(classes, 5).double() for classes in (true, predicted))
    one, other = one - one.mean(0), other - other.mean(0)
    assert matthews(counts) == pytest.approx(((one * other).sum() / ((one**2).sum() * (other**2).sum()).sqrt()).item())


def test_the_ends() -> None:
    true = torch.tensor([0, 1, 1, 0])
    assert figures(confusion(true, true, 2)) == {"accuracy": 1.0, "f1": 1.0, "matthews": 1.0}
    assert figures(confusion(true, 1 - true, 2)) == {"accuracy": 0.0, "f1": 0.0, "matthews": -1.0}
    assert figures(confusion(true, torch.zeros_like(true), 2)) == {"accuracy": 0.5, "f1": 0.0, "matthews": 0.0}
    assert figures(torch.zeros(2, 2, dtype=torch.int64)) == {"accuracy": 0.0, "f1": 0.0, "matthews": 0.0}


@pytest.mark.parametrize("seed", range(3))
def test_numbers(seed: int) -> None:
    """Against the library's covariance; ranks are counted one by one, equal numbers in the middle of theirs."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.randint(6, (30,), generator=draw).double()
    predicted = true + 3 * torch.randn(30, generator=draw, dtype=torch.float64).round(decimals=0)
    assert pearson(true, predicted) == pytest.approx(torch.corrcoef(torch.stack((true, predicted)))[0, 1].item())
    ranks = [torch.stack([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values]) for values in (true, predicted)]
    assert spearman(true, predicted) == pytest.approx(torch.corrcoef(torch.stack(ranks).double())[0, 1].item())
    assert number_figures(true, 3 * true - 2) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    assert number_figures(true, -(true**3)) == pytest.approx({"pearson": pearson(true, -(true**3)), "spearman": -1.0})


def test_numbers_that_are_all_the_same() -> None:
    assert number_figures(torch.full((7,), 0.1), torch.arange(7.0)) == {"pearson": 0.0, "spearman": 0.0}
