"""The class of texts, and how probable each class is.

Texts are read in batches of about the same length, padded on the right, which changes a result in its last bits only. N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from subquad.inference.contract import evaluating
from subquad.inference.texts import batches, text_ids
from subquad.models.classifier import Classifier
from subquad.ops.agreement import confusion, figures


class Classified(NamedTuple):
    """The most probable label of a text, and the probability of every label, in the order of the model's classes."""

    label: str
    probabilities: dict[str, float]


def classify(model: nn.Module, texts: Sequence[bytes | str], *, cut: bool = False) -> list[Classified]:
    """The class of each text; a ``str`` is read as UTF-8.

    ``cut`` reads only the beginning of a text that exceeds the context. Raises ``ValueError`` for such a text without it, for a model that
    does not classify, and for a token model without its tokenizer.
    """
    if not hasattr(model, "backbone"):
        raise ValueError(f"a classifier is needed here, got {type(model).__name__}: train one with subquad train classifier --init RUN")
    classifier = cast(Classifier, model)
    classes = classifier.config.classes
    rows = [text_ids(classifier, text, cut) for text in texts]
    found: list[Classified | None] = [None] * len(rows)
    modules, device = list(model.modules()), classifier.head.weight.device
    for places, ids, lengths in batches(rows):
        with evaluating(modules):
            logits = model(ids.to(device), lengths)
        for place, one in zip(places, logits.double().softmax(1).tolist(), strict=True):
            found[place] = Classified(classes[one.index(max(one))], dict(zip(classes, one, strict=True)))
    return [one for one in found if one is not None]


def agreement(results: Sequence[Classified], labels: Sequence[str | None]) -> dict[str, float] | None:
    """Accuracy, F1 and Matthews' correlation of what was classified with the true labels; None where no text has one.

    Texts without a label do not count. Raises ``ValueError`` for a label that is none of the classes.
    """
    pairs = [(found, label) for found, label in zip(results, labels, strict=True) if label is not None]
    if not pairs:
        return None
    classes = list(pairs[0][0].probabilities)
    if stray := next((label for _, label in pairs if label not in classes), None):
        known = ", ".join(classes[:10])
        raise ValueError(f"the label {stray!r} is none of the classes {known}: name the column of labels, as in --label 1")
    true = torch.tensor([classes.index(label) for _, label in pairs])
    predicted = torch.tensor([classes.index(found.label) for found, _ in pairs])
    return figures(confusion(true, predicted, len(classes)))
