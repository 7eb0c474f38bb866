"""How well predictions agree with the truth. For classes accuracy, F1 and Matthews' correlation, for numbers Pearson's and Spearman's
correlation, as GLUE reports them, by scikit-learn and SciPy; for a task the loss and accuracy of its answers.

N predictions, B batch, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32

CLASSIFICATION = ("accuracy", "f1", "matthews")
REGRESSION = ("pearson", "spearman")

_PACKAGES: Mapping[str, str] = {"sklearn": "scikit-learn", "scipy": "SciPy", "ir_measures": "ir_measures"}


def require() -> None:
    """Raises ``ValueError`` where a package that these metrics need is not installed; call it before a long computation."""
    if missing := [name for package, name in _PACKAGES.items() if find_spec(package) is None]:
        raise ValueError(f"metrics need {' and '.join(missing)}, not installed here: pip install 'subquad[metrics]'")


def classification_metrics(true: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> dict[str, float]:
    """The metrics ``CLASSIFICATION`` of classes (N,) from 0 to ``num_classes`` - 1.

    F1 is that of the second of two classes; of more, the mean over the classes that occur, true or predicted (macro). Matthews'
    correlation of more than two classes is R_K (Gorodkin 2004). What is not defined, such as a correlation with a constant, is 0.
    """
    require()
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    true, predicted = np.asarray(true), np.asarray(predicted)
    if not true.size:
        return dict.fromkeys(CLASSIFICATION, 0.0)
    f1 = f1_score(true, predicted, labels=[1] if num_classes == 2 else None, average="macro", zero_division=0)
    matthews = matthews_corrcoef(true, predicted) if len(np.union1d(true, predicted)) > 1 else 0.0  # of one class it warns
    return {"accuracy": float(accuracy_score(true, predicted)), "f1": float(f1), "matthews": float(matthews)}


def regression_metrics(true: npt.ArrayLike, predicted: npt.ArrayLike) -> dict[str, float]:
    """The metrics ``REGRESSION`` of numbers (N,); 0 where one side is constant."""
    require()
    from scipy.stats import pearsonr, rankdata

    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if min(len(np.unique(values)) for values in (true, predicted)) < 2:
        return dict.fromkeys(REGRESSION, 0.0)
    correlations = pearsonr(true, predicted), pearsonr(rankdata(true), rankdata(predicted))
    return {name: float(correlation.statistic) for name, correlation in zip(REGRESSION, correlations, strict=True)}


def score_answers(logits: Tensor, ids: Tensor, answers: Tensor, tolerance: int = 0) -> tuple[float, int]:
    """The loss of the ids (B, T) at ``answers``, a mask (B, T), under logits (B, T, V), in nats, summed; and how many are predicted.

    An id is predicted where the largest logit is at most ``tolerance`` ids from it.
    """
    logits, targets = logits[answers], ids[answers]  # (N, V), (N,)
    loss = F.cross_entropy(logits.to(at_least_float32(logits.dtype)), targets, reduction="sum")
    correct = (logits.argmax(-1) - targets).abs() <= tolerance
    return loss.item(), int(correct.sum())
