"""How good ranked lists of documents are, given graded judgements, as trec_eval 9 measures it; and lists by the cosine of embeddings.

    DCG@k = sum over ranks r <= k of grade_r / log2(r + 1),   nDCG@k = DCG@k / DCG@k of the best order of all judged documents
    recall@k = relevant documents at ranks <= k / relevant documents,   MRR = mean of 1 / rank of the first relevant one

    fused score of a document = sum over lists of 1 / (60 + its rank there)     (reciprocal rank fusion, SIGIR 2009)

A document is relevant with a grade of 1 or more; one without a judgement has grade 0, and a grade below 0 counts as 0. Equal scores are
ordered by name, the last in the alphabet first. Each text is one vector, however long it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import torch.nn.functional as F
from torch import Tensor, nn

from subquad.inference.embed import embed

Grades = Mapping[str, int]  # of documents, by name


def ndcg(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """From 0 to 1; 0 where nothing is relevant."""
    ideal = _dcg(sorted(grades.values(), reverse=True)[:k])
    return _dcg([grades.get(name, 0) for name in ranked[:k]]) / ideal if ideal else 0.0


def recall(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """From 0 to 1; 0 where nothing is relevant."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranked[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], grades: Grades) -> float:
    """1 / rank of the first relevant document; 0 without one."""
    return next((1 / rank for rank, name in enumerate(ranked, 1) if grades.get(name, 0) > 0), 0.0)


def evaluate(
    lists: Mapping[str, Sequence[str]], judgements: Mapping[str, Grades], depths: Sequence[int] = (10, 100), k: int = 10
) -> dict[str, float]:
    """Means over all judged queries, of which one without a list counts 0: "ndcg@k", "recall@..." of each depth, "mrr".

    Lists of queries that nobody judged do not count. Raises ``ValueError`` where there is no judgement, for a grade that is no number, and
    for a list that names a document twice.
    """
    if not judgements:
        raise ValueError("there is no judged query to measure: give judgements, query to document to grade")
    for query, grades in judgements.items():
        for name, grade in grades.items():
            if not isinstance(grade, Real):
                raise ValueError(f"the grade of document {name!r} for query {query!r} must be a number, got {grade!r}: convert it with int")
    for query, names in lists.items():
        if len(set(names)) < len(names):
            raise ValueError(f"the list of query {query!r} names a document twice: keep the first of them")
    rows = [(lists.get(query, ()), grades) for query, grades in judgements.items()]
    measures = {f"ndcg@{k}": [ndcg(names, grades, k) for names, grades in rows]}
    measures |= {f"recall@{depth}": [recall(names, grades, depth) for names, grades in rows] for depth in depths}
    measures["mrr"] = [reciprocal_rank(names, grades) for names, grades in rows]
    return {name: sum(values) / len(rows) for name, values in measures.items()}


def by_score(scores: Tensor, names: Sequence[str], k: int | None = None) -> list[list[str]]:
    """Scores (Q, N) of documents -> for each query their names, the best first, at most ``k``.

    Raises ``ValueError`` where there is not one name for each document.
    """
    if scores.shape[1] != len(names):
        raise ValueError(f"expected a name for each of {scores.shape[1]} documents, got {len(names)}")
    order = sorted(range(len(names)), key=names.__getitem__, reverse=True)
    places = scores[:, order].argsort(dim=1, descending=True, stable=True)[:, :k]
    return [[names[order[place]] for place in row] for row in places.tolist()]


def by_embedding(
    model: nn.Module, queries: Mapping[str, bytes | str], documents: Mapping[str, bytes | str], k: int | None = None, *, cut: bool = False
) -> dict[str, list[str]]:
    """For each query the names of the documents, in order of the cosine of their embedding with the query's, at most ``k``.

    ``cut`` and what is raised are those of ``embed``.
    """
    asked, found = (F.normalize(embed(model, list(texts.values()), cut=cut), dim=1) for texts in (queries, documents))
    return dict(zip(queries, by_score(asked @ found.mT, list(documents), k), strict=True))


def fused(lists: Sequence[Sequence[str]], constant: int = 60) -> list[str]:
    """One list of all that is in any of several, by reciprocal rank fusion: scores of any scale, and lists of any length, go together.

    A larger ``constant`` counts the first ranks for less. Raises ``ValueError`` for a negative one.
    """
    if constant < 0:
        raise ValueError(f"the constant is added to ranks from 1 on, so 0 or more, got {constant}: the usual one is 60")
    scores: dict[str, float] = {}
    for ranked in lists:
        for rank, name in enumerate(ranked, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (constant + rank)
    return sorted(sorted(scores, reverse=True), key=scores.__getitem__, reverse=True)


def _dcg(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))
