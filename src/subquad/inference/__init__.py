"""Using a model: writing on from a prompt, scoring data, classifying and embedding texts."""

from subquad.inference.answers import Answers, answer, answer_spans
from subquad.inference.classify import Classified, agreement, classify, estimate, estimates, number_agreement
from subquad.inference.continuation import continuation_bits
from subquad.inference.distill import distil
from subquad.inference.embed import embed
from subquad.inference.generate import generate, stream
from subquad.inference.score import Score, score, score_files, total

__all__ = [
    "Answers",
    "Classified",
    "Score",
    "agreement",
    "answer",
    "answer_spans",
    "classify",
    "continuation_bits",
    "distil",
    "embed",
    "estimate",
    "estimates",
    "generate",
    "number_agreement",
    "score",
    "score_files",
    "stream",
    "total",
]
