"""The class of each text with the probability of every class, or the value that a regression model predicts.

Texts are read in batches of about the same length, padded on the right, which changes a result in its last bits only. N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from subquad import metrics
from subquad.inference.checks import Progress, evaluating, expect_finite
from subquad.inference.texts import prepared_batches, text_rows
from subquad.models.base import expect_model
from subquad.models.classifier import Classifier


class Classified(NamedTuple):
    """The most probable label of a text, and the probability of every label, in the order of the model's classes."""

    label: str
    probabilities: dict[str, float]


def classify(
    model: nn.Module, texts: Sequence[bytes | str], *, truncate: bool = False, progress: Progress | None = None
) -> list[Classified]:
    """The class of each text; a ``str`` is read as UTF-8.

    ``truncate`` reads only the beginning of a text that exceeds the context. ``progress(done, all)`` is called after each batch, with
    texts. Raises ``ValueError`` for such a text without it, for a text
    that is not in a list, for a model that does not classify, and for a token model without its tokenizer.
    """
    classes = _classifier(model).config.classes
    if is_regression(model):
        raise ValueError("this model is a regression model and has no classes: use regress")
    results = []
    for logits in _outputs(model, texts, truncate, progress):
        probabilities = dict(zip(classes, logits.softmax(0).tolist(), strict=True))
        results.append(Classified(classes[int(logits.argmax())], probabilities))
    return results


def regress(model: nn.Module, texts: Sequence[bytes | str], *, truncate: bool = False, progress: Progress | None = None) -> list[float]:
    """The number of each text, from a classifier that predicts numbers; otherwise as ``classify``."""
    if not is_regression(model):
        raise ValueError("this model has classes and does not predict values: use classify")
    return [number.item() for number in _outputs(model, texts, truncate, progress)]


def is_regression(model: nn.Module) -> bool:
    """Whether it is a classifier that predicts numbers."""
    return _classifier(model).config.problem_type == "regression"


def _classifier(model: nn.Module) -> Classifier:
    return expect_model(model, Classifier, "expected a classifier, got {}: train one with subquad train classifier --init RUN")


def _outputs(model: nn.Module, texts: Sequence[bytes | str], truncate: bool, progress: Progress | None) -> list[Tensor]:
    """The logits (C,) of each text, or its number (), in double precision on the CPU."""
    classifier = _classifier(model)
    rows = text_rows(classifier, texts, truncate)
    outputs: list[Tensor] = [torch.empty(0)] * len(rows)
    modules, device = list(model.modules()), classifier.head.weight.device
    for indices, ids, lengths, spectra in prepared_batches(classifier.encoder, rows, progress):
        with evaluating(modules):
            batch = model(ids.to(device), lengths, spectra).double().cpu()  # (B, C) or (B,)
        expect_finite(batch, "logits")
        for index, output in zip(indices, batch, strict=True):
            outputs[index] = output
    return outputs


def classification_metrics(results: Sequence[Classified], labels: Sequence[str | None]) -> dict[str, float] | None:
    """Accuracy, F1 and Matthews' correlation of the results of ``classify`` with the true labels; None where no text has one.

    Texts without a label do not count. Raises ``ValueError`` for a label that is not one of the classes.
    """
    pairs = [(result, label) for result, label in zip(results, labels, strict=True) if label is not None]
    if not pairs:
        return None
    classes = list(pairs[0][0].probabilities)
    if unknown := next((label for _, label in pairs if label not in classes), None):
        names = ", ".join(classes[:10])
        raise ValueError(f"the label {unknown!r} is not one of the classes {names}: name the column of labels, as in --label 1")
    true, predicted = [classes.index(label) for _, label in pairs], [classes.index(result.label) for result, _ in pairs]
    return metrics.classification_metrics(true, predicted, len(classes))


def regression_metrics(results: Sequence[float], labels: Sequence[str | None]) -> dict[str, float] | None:
    """Pearson's and Spearman's correlation of the results of ``regress`` with the true numbers; None where no text has one.

    Texts without a number do not count. Raises ``ValueError`` for a label that is not a number.
    """
    pairs = [(result, label) for result, label in zip(results, labels, strict=True) if label is not None]
    if not pairs:
        return None
    try:
        true = [float(label) for _, label in pairs]
    except ValueError as error:
        raise ValueError(f"expected labels that are numbers, got one that is not ({error}): name the column of numbers") from None
    return metrics.regression_metrics(true, [result for result, _ in pairs])
