"""How well predictions agree with the truth, as GLUE takes it: of classes accuracy, F1 and Matthews' correlation, of numbers Pearson's and
Spearman's correlation.

N texts, C classes; ``counts[i, j]`` is how many of class i were taken for class j. With TP, FP, FN of a class,
F1 = 2 TP / (2 TP + FP + FN). For more than two classes Matthews' correlation is R_K (Gorodkin 2004), which for two is the usual one.
Spearman's correlation is Pearson's of the ranks, where equal numbers share the mean of theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIGURES = ("accuracy", "f1", "matthews")
NUMBER_FIGURES = ("pearson", "spearman")


def confusion(true: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts (C, C), int64, of true and predicted classes (N,), int64."""
    return torch.bincount(true * classes + predicted, minlength=classes * classes).view(classes, classes)


def accuracy(counts: Tensor) -> float:
    """The share that is right; 0 of none."""
    return _ratio(counts.trace().item(), counts.sum().item())


def f1(counts: Tensor) -> float:
    """Of two classes the F1 of the second; of more the mean over those that occur, true or predicted (macro)."""
    right = counts.diagonal().tolist()
    sizes = (counts.sum(0) + counts.sum(1)).tolist()  # 2 TP + FP + FN
    if len(counts) == 2:
        return _ratio(2 * right[1], sizes[1])
    each = [2 * hit / size for hit, size in zip(right, sizes, strict=True) if size]
    return _ratio(sum(each), len(each))


def matthews(counts: Tensor) -> float:
    """From -1 to 1; 0 for chance, and where all are of one class or taken for one."""
    counts = counts.double()
    total, true, predicted = counts.sum(), counts.sum(1), counts.sum(0)
    covariance = counts.trace() * total - true @ predicted
    spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
    return _ratio(covariance.item(), spread.sqrt().item())


def figures(counts: Tensor) -> dict[str, float]:
    """All ``FIGURES`` by name."""
    return {"accuracy": accuracy(counts), "f1": f1(counts), "matthews": matthews(counts)}


def pearson(true: Tensor, predicted: Tensor) -> float:
    """From -1 to 1, of numbers (N,); 0 where one side is all the same."""
    if min(len(values.unique()) for values in (true, predicted)) < 2:
        return 0.0
    one, other = (values.double() - values.double().mean() for values in (true, predicted))
    return (one @ other / (one.norm() * other.norm())).item()


def spearman(true: Tensor, predicted: Tensor) -> float:
    """The same of their ranks."""
    return pearson(_ranks(true), _ranks(predicted))


def number_figures(true: Tensor, predicted: Tensor) -> dict[str, float]:
    """All ``NUMBER_FIGURES`` by name."""
    return {"pearson": pearson(true, predicted), "spearman": spearman(true, predicted)}


def _ranks(values: Tensor) -> Tensor:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return (last - (counts - 1) / 2)[places]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
