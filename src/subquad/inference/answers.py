"""How many answers of a task a model knows: at each one the likeliest byte, given all that truly comes before it."""

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
from subquad.inference.checks import byte_model, evaluating
from subquad.metrics import score_answers

_BATCH_LOGITS = 1 << 23


@dataclass(frozen=True)
class Answers:
    """``accuracy`` is the share of ``count`` answers that are right, ``bits`` what one costs on average."""

    accuracy: float
    bits: float
    count: int


def answer(model: nn.Module, task: str) -> Answers:
    """Judges a model on all examples of a task, such as ``synthetic:recall,length=256,seed=1``.

    Raises ``ValueError`` for what is no task, a model that is not one of bytes, and examples that exceed its context.
    """
    corpus = Corpus.open([task])
    if corpus.task is None:
        raise ValueError(f"expected a task such as synthetic:recall,length=256, got {task!r}: files have no answers, score them")
    return answer_spans(model, [Span(document, 0, document.size) for document in corpus.documents], corpus.task)


def answer_spans(model: nn.Module, spans: Sequence[Span], task: Task) -> Answers:
    """The same on some of its examples."""
    causal = byte_model(model)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if task.size > causal.config.max_len:
        raise ValueError(f"an example has {task.size} bytes and the model a context of {causal.config.max_len}: take a smaller length")
    batch = Batches(spans, task.size, seed=0).in_order()
    size = max(1, _BATCH_LOGITS // (task.size * causal.config.vocab))
    nats, right, count = 0.0, 0, 0
    for first in range(0, len(spans), size):
        part = batch.rows(first, first + size)
        assert part.answers is not None
        ids, answers = (torch.from_numpy(array).to(device) for array in (part.ids, part.answers))
        with evaluating(list(model.modules())):
            found, hits = score_answers(causal(ids.long()), ids.long(), answers, task.slack)
        nats, right, count = nats + found, right + hits, count + int(part.answers.sum())
    return Answers(right / count, nats / count / math.log(2), count)
