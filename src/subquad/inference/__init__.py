"""Using a model: writing on from a prompt, scoring data, classifying and embedding texts."""

from subquad.inference.answers import Answers, answer, answer_spans
from subquad.inference.classify import Classified, classification_metrics, classify, is_regression, regress, regression_metrics
from subquad.inference.continuation import conditional_bits
from subquad.inference.embed import embed
from subquad.inference.generate import generate, stream
from subquad.inference.score import Score, score, score_files, total

__all__ = [
    "Answers",
    "Classified",
    "Score",
    "classification_metrics",
    "answer",
    "answer_spans",
    "classify",
    "conditional_bits",
    "embed",
    "regress",
    "is_regression",
    "generate",
    "regression_metrics",
    "score",
    "score_files",
    "stream",
    "total",
]
