"""Using a causal model: writing on from a prompt and scoring data."""

from subquad.inference.answers import Answers, answer, answer_spans
from subquad.inference.continuation import continuation_bits
from subquad.inference.distill import distil
from subquad.inference.generate import generate, stream
from subquad.inference.score import Score, score, score_files, total

__all__ = [
    "Answers",
    "Score",
    "answer",
    "answer_spans",
    "continuation_bits",
    "distil",
    "generate",
    "score",
    "score_files",
    "stream",
    "total",
]
