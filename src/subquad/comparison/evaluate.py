"""What a trained model is worth on the test part of its data, as fields of an ``Outcome``.

A text is scored in bits per byte, a task by its answers, an encoder by what it guesses of hidden ids, a classifier by its labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from subquad import api
from subquad.comparison.experiment import SPLIT_SEED, Labels, Way, found_paths
from subquad.comparison.grid import Cell
from subquad.comparison.probes import probe
from subquad.data.corpus import Corpus
from subquad.data.labelled import read_labelled
from subquad.data.tokenizer import span_text
from subquad.data.windows import Span
from subquad.errors import RunError
from subquad.inference import answer_spans
from subquad.models.base import CausalModel, Model
from subquad.models.encoder import Encoder
from subquad.run_folder import TOKENIZER
from subquad.training.config import read
from subquad.training.masked import MaskedPrediction
from subquad.training.objectives import Place

PLACES = 16  # parts of a window in ``by_position``
PIECE = 16_384  # bytes of a document that are scored, where it has them
_LEAST = 1e-30  # a probability that is 0 in float32 counts as this one

Bits = npt.NDArray[np.float32]


def judge(model: Model, cell: Cell, run: Path, paths: Sequence[str], ways: Sequence[Way], probes: Sequence[str]) -> dict[str, Any]:
    """Everything that the test part says of the model that a cell has trained in ``run`` on ``paths``."""
    if cell.spec.labels:
        return _labelled(model, cell, cell.spec.labels, paths)
    corpus = Corpus.open(paths)
    held_out = corpus.split(cell.spec.fractions, cell.spec.split, SPLIT_SEED).test
    if isinstance(model, Encoder):
        return _hidden(model, cell, run, corpus, held_out)
    assert isinstance(model, CausalModel)
    if corpus.task is not None:
        found = answer_spans(model, held_out, corpus.task)
        return {"bits": {"basic": found.bits}, "accuracy": found.accuracy, "scored_bytes": found.count}
    return _scored(model, cell, held_out, ways) | {"probes": probe(model, cell, probes, held_out)}


def _labelled(model: Model, cell: Cell, labels: Labels, paths: Sequence[str]) -> dict[str, Any]:
    """Bits of a label and GLUE's figures on the held-out texts; of numbers the figures alone."""
    numbers = api.is_regression(model)
    held_out, fractions = found_paths(labels.test), cell.spec.fractions
    test = read_labelled(paths, (), held_out, labels.columns, fractions, SPLIT_SEED, numbers=numbers).test
    if not test:
        raise RunError("the test part holds no text: name tables in labels.test, or give the data a larger fraction for it")
    texts, truth = [one.text for one in test], [one.label for one in test]
    size = sum(map(len, texts))
    if numbers:
        return {"metrics": api.regression_metrics(api.regress(model, texts), truth), "scored_bytes": size}
    found = api.classify(model, texts)
    figures = dict(api.classification_metrics(found, truth) or {})
    bits = [-math.log2(max(one.probabilities[cast(str, label)], _LEAST)) for one, label in zip(found, truth, strict=True)]
    return {"bits": {"basic": sum(bits) / len(bits)}, "accuracy": figures.pop("accuracy"), "metrics": figures, "scored_bytes": size}


def _hidden(model: Encoder, cell: Cell, run: Path, corpus: Corpus, held_out: list[Span]) -> dict[str, Any]:
    """Bits of a hidden id, and the share that is guessed right, in windows of the held-out text."""
    objective, config = MaskedPrediction(model, corpus), read(run)
    objective.set_up(config, kept=run / TOKENIZER)
    found, size = objective.judge(held_out, cell.spec.score_bytes, config.batch, Place(next(model.parameters()).device))
    right = {"masked_accuracy": found["masked_accuracy"]}
    return {"bits": {"basic": found[objective.measure] / math.log(2)}, "metrics": right, "scored_bytes": size}


def _scored(model: CausalModel, cell: Cell, held_out: Sequence[Span], ways: Sequence[Way]) -> dict[str, Any]:
    """Bits per byte by each way that the model can be scored by, and by position, over the same bytes."""
    texts = pieces(held_out, cell.spec.score_bytes, whole_characters=model.tokenizer is not None)
    patched = model.patch_size > 1
    bits: dict[str, float] = {}
    basic: list[Bits] = []
    for way in ways:
        if way in ("strided", "both") and not patched:
            continue
        scores = [api.score(model, text, sliding=way in ("sliding", "both"), strided=way in ("strided", "both")) for text in texts]
        found = api.total(scores).bits_per_byte
        if found is None:
            raise RunError("the test part holds no bytes to score: give the data a larger one")
        bits[way] = found
        basic = [score.bits for score in scores] if way == "basic" else basic
    inside = by_place(basic, model.patch_size, model.patch_size) if patched else []
    by_position = by_place(basic, model.config.max_len, PLACES) if model.tokenizer is None else []
    return {"bits": bits, "inside": inside, "by_position": by_position, "scored_bytes": sum(len(row) for row in basic)}


def pieces(held_out: Sequence[Span], size: int, whole_characters: bool) -> list[bytes]:
    """About ``size`` bytes of the test part: equal pieces of as many of its largest documents as hold pieces of ``PIECE`` bytes.

    Few long pieces rather than many short ones: a model is to be scored on windows as long as it can read.
    """
    spans = sorted(held_out, key=lambda span: (-span.size, span.document.name))[: max(1, size // PIECE)]
    each = math.ceil(size / max(len(spans), 1))
    cut = [span._replace(stop=min(span.stop, span.start + each)) for span in spans]
    return [span_text(span) if whole_characters else span.read(0, span.size).tobytes() for span in cut]


def by_place(rows: Sequence[Bits], period: int, parts: int) -> list[float]:
    """Mean bits in each of ``parts`` equal parts of every ``period`` bytes; none at all where a part has no byte."""
    where = np.concatenate([np.arange(len(row)) % period * parts // period for row in rows])
    sums, counts = np.bincount(where, np.concatenate(rows), parts), np.bincount(where, minlength=parts)
    return [float(mean) for mean in sums / counts] if counts.all() else []
