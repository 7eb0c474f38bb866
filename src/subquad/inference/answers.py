"""The accuracy of a model on a task: the most probable id at each answer, given the true ids before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from subquad.data.batches import Batches
from subquad.data.corpus import Corpus
from subquad.data.synthetic import Task
from subquad.data.windows import Span
from subquad.inference.checks import Progress, byte_model, device_of, evaluating
from subquad.metrics import score_answers

_BATCH_LOGITS = 1 << 23


@dataclass(frozen=True)
class Answers:
    """``accuracy`` is the share of ``count`` answers that are predicted, ``bits`` the mean loss of an answer in bits."""

    accuracy: float
    bits: float
    count: int


def answer(model: nn.Module, task: str, progress: Progress | None = None) -> Answers:
    """Evaluates a model on all examples of a task, such as ``synthetic:recall,length=256,seed=1``.

    ``progress(done, all)`` is called after each batch, with examples. Raises ``ValueError`` for what is not a task, a model that is not one
    of bytes, and examples that exceed its context.
    """
    corpus = Corpus.open([task])
    if corpus.task is None:
        raise ValueError(f"expected a task such as synthetic:recall,length=256, got {task!r}: use score for files")
    return answer_spans(model, [Span(document, 0, document.size) for document in corpus.documents], corpus.task, progress)


def answer_spans(model: nn.Module, spans: Sequence[Span], task: Task, progress: Progress | None = None) -> Answers:
    """The same on some of its examples."""
    config = byte_model(model).config
    if task.size > config.max_len:
        raise ValueError(f"an example has {task.size} bytes and the model a context of {config.max_len}: take a smaller length")
    examples = Batches(spans, task.size, seed=0).in_order()
    size, modules, device = max(1, _BATCH_LOGITS // (task.size * config.vocab)), list(model.modules()), device_of(model)
    loss, correct, count = 0.0, 0, 0
    for first in range(0, len(spans), size):
        batch = examples.rows(first, first + size)
        assert batch.answers is not None
        ids, answers = torch.from_numpy(batch.ids).to(device).long(), torch.from_numpy(batch.answers).to(device)  # (B, T)
        with evaluating(modules):
            batch_loss, batch_correct = score_answers(model(ids), ids, answers, task.tolerance)
        loss, correct, count = loss + batch_loss, correct + batch_correct, count + int(batch.answers.sum())
        if progress is not None:
            progress(min(first + size, len(spans)), len(spans))
    return Answers(correct / count, loss / count / math.log(2), count)
