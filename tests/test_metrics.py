"""Accuracy, F1, Matthews', Pearson's and Spearman's correlation against their definitions, written out one prediction at a time."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from subquad import metrics
from subquad.metrics import CLASSIFICATION, REGRESSION, classification_metrics, regression_metrics


def counted(true: list[int], predicted: list[int], kind: int) -> tuple[int, int, int, int]:
    """TP, FP, FN, TN of a class."""
    pairs = [(a == kind, b == kind) for a, b in zip(true, predicted, strict=True)]
    return tuple(pairs.count(pair) for pair in ((True, True), (False, True), (True, False), (False, False)))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(5))
def test_two_classes(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    true, predicted = (torch.randint(2, (40,), generator=draw).tolist() for _ in range(2))
    tp, fp, fn, tn = counted(true, predicted, 1)
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert classification_metrics(true, predicted, 2) == pytest.approx(
        {
            "accuracy": (tp + tn) / 40,
            "f1": 2 * precision * recall / (precision + recall),
            "matthews": (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_more_classes(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    true, predicted = (torch.randint(4, (60,), generator=draw) for _ in range(2))
    found = classification_metrics(true.numpy(), predicted.numpy(), 5)  # a class that does not occur counts for nothing
    each = []
    for kind in range(4):
        tp, fp, fn, _ = counted(true.tolist(), predicted.tolist(), kind)
        each.append(2 * tp / (2 * tp + fp + fn))
    assert found["f1"] == pytest.approx(sum(each) / 4)
    one, other = (torch.nn.functional.one_hot(classes, 5).double() for classes in (true, predicted))
    one, other = one - one.mean(0), other - other.mean(0)
    assert found["matthews"] == pytest.approx(((one * other).sum() / ((one**2).sum() * (other**2).sum()).sqrt()).item())


@pytest.mark.parametrize(
    ("true", "predicted", "values"),
    [
        ([0, 1, 1, 0], [0, 1, 1, 0], (1.0, 1.0, 1.0)),
        ([0, 1, 1, 0], [1, 0, 0, 1], (0.0, 0.0, -1.0)),
        ([0, 1, 1, 0], [0, 0, 0, 0], (0.5, 0.0, 0.0)),
        ([0, 0], [0, 0], (1.0, 0.0, 0.0)),
        ([1, 1], [1, 1], (1.0, 1.0, 0.0)),
        ([0, 0], [1, 1], (0.0, 0.0, 0.0)),
        ([1], [1], (1.0, 1.0, 0.0)),
        ([], [], (0.0, 0.0, 0.0)),
    ],
)
def test_every_metric_is_finite_where_it_is_not_defined(true: list[int], predicted: list[int], values: tuple[float, ...]) -> None:
    assert classification_metrics(true, predicted, 2) == dict(zip(CLASSIFICATION, values, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_numbers(seed: int) -> None:
    """Against PyTorch's covariance; ranks are counted one by one, equal numbers in the middle of theirs."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.randint(6, (30,), generator=draw).double()
    predicted = true + 3 * torch.randn(30, generator=draw, dtype=torch.float64).round(decimals=0)
    ranks = [torch.stack([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values]) for values in (true, predicted)]
    expected = [torch.corrcoef(torch.stack(pair).double())[0, 1].item() for pair in ((true, predicted), ranks)]
    assert regression_metrics(true.numpy(), predicted.numpy()) == pytest.approx(dict(zip(REGRESSION, expected, strict=True)))
    assert regression_metrics(true.numpy(), (3 * true - 2).numpy()) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    assert regression_metrics(true.numpy(), -(true**3).numpy())["spearman"] == pytest.approx(-1.0)


@pytest.mark.parametrize(("true", "predicted"), [([0.1] * 7, list(range(7))), ([1.0], [2.0]), ([1.0, 2.0], [0.1, 0.1])])
def test_numbers_that_are_all_the_same(true: list[float], predicted: list[float]) -> None:
    assert regression_metrics(true, predicted) == {"pearson": 0.0, "spearman": 0.0}


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(metrics, "find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    for call in (metrics.require, lambda: classification_metrics([0], [0], 2), lambda: regression_metrics([0.0], [0.0])):
        with pytest.raises(ValueError, match="metrics need scikit-learn, not installed here: pip install 'subquad\\[metrics\\]'"):
            call()
