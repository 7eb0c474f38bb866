"""Using a model: generating from a prompt, scoring data, classifying and embedding texts."""

from subquad.inference.answers import Answers, answer, answer_spans
from subquad.inference.classify import Classified, classification_metrics, classify, is_regression, regress, regression_metrics
from subquad.inference.embed import embed
from subquad.inference.generate import generate, stream
from subquad.inference.score import Score, conditional_bits, score, score_files, total
from subquad.inference.texts import unreadable

__all__ = [
    "Answers",
    "Classified",
    "Score",
    "answer",
    "answer_spans",
    "classification_metrics",
    "classify",
    "conditional_bits",
    "embed",
    "generate",
    "is_regression",
    "regress",
    "regression_metrics",
    "score",
    "score_files",
    "stream",
    "total",
    "unreadable",
]
