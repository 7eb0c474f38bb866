"""How good ranked lists of documents are, given graded judgements, as trec_eval 9 measures it (by ir_measures); and lists by the cosine of
embeddings.

    DCG@k = sum over ranks r <= k of grade_r / log2(r + 1),   nDCG@k = DCG@k / DCG@k of the best order of all judged documents
    recall@k = relevant documents at ranks <= k / relevant documents,   MRR = mean of 1 / rank of the first relevant one

    fused score of a document = sum over lists of 1 / (60 + its rank there)     (reciprocal rank fusion, SIGIR 2009)

A document is relevant with a grade of 1 or more; one without a judgement has grade 0, and a grade below 0 counts as 0. Equal scores are
ordered by name, the last in the alphabet first. Each text is one vector, however long it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import torch.nn.functional as F
from torch import Tensor, nn

from subquad.inference.embed import embed
from subquad.metrics import require

Grades = Mapping[str, int]  # of documents, by name


def evaluate(
    lists: Mapping[str, Sequence[str]], judgements: Mapping[str, Grades], depths: Sequence[int] = (10, 100), k: int = 10
) -> dict[str, float]:
    """Means over all judged queries, of which one without a list counts 0: "ndcg@k", "recall@..." of each depth, "mrr".

    Lists of queries without judgements do not count. Raises ``ValueError`` where there is no judgement, for a grade that is not an
    integer, for a list that names a document twice, and where ir_measures is not installed.
    """
    require()
    # Of the libraries that give trec_eval's numbers ir_measures runs trec_eval itself, adds 3 MB to SciPy and starts in 0.1 s; ranx would
    # add 490 MB and compile for 5 s.
    from ir_measures import RR, R, calc_aggregate, nDCG

    _check_judgements(judgements)
    for query, names in lists.items():
        if len(set(names)) < len(names):
            raise ValueError(f"the list of query {query!r} has a document twice: keep the first")
    # trec_eval orders by score, and a grade below 0 makes it read outside its memory.
    run = {query: {name: float(-rank) for rank, name in enumerate(names)} for query, names in lists.items()}
    grades = {query: {name: max(grade, 0) for name, grade in graded.items()} for query, graded in judgements.items()}
    measures = {f"ndcg@{k}": nDCG @ k} | {f"recall@{depth}": R @ depth for depth in depths} | {"mrr": RR}
    means = calc_aggregate(list(measures.values()), grades, run)
    return {name: float(means[measure]) for name, measure in measures.items()}


def by_score(scores: Tensor, names: Sequence[str], k: int | None = None) -> list[list[str]]:
    """Scores (Q, N) of documents -> for each query their names, the best first, at most ``k``.

    Raises ``ValueError`` where there is not one name for each document.
    """
    if scores.shape[1] != len(names):
        raise ValueError(f"expected a name for each of {scores.shape[1]} documents, got {len(names)}")
    alphabetical = sorted(range(len(names)), key=names.__getitem__, reverse=True)
    ranked = scores[:, alphabetical].argsort(dim=1, descending=True, stable=True)[:, :k]  # (Q, k)
    return [[names[alphabetical[index]] for index in row] for row in ranked.tolist()]


def by_embedding(
    model: nn.Module,
    queries: Mapping[str, bytes | str],
    documents: Mapping[str, bytes | str],
    k: int | None = None,
    *,
    truncate: bool = False,
) -> dict[str, list[str]]:
    """For each query the names of the documents, in order of the cosine of their embedding with the query's, at most ``k``.

    ``truncate`` and what is raised are those of ``embed``.
    """
    query_vectors, document_vectors = (
        F.normalize(embed(model, list(texts.values()), truncate=truncate), dim=1) for texts in (queries, documents)
    )
    return dict(zip(queries, by_score(query_vectors @ document_vectors.mT, list(documents), k), strict=True))


def fused(lists: Sequence[Sequence[str]], constant: int = 60) -> list[str]:
    """One list of all that is in any of several, by reciprocal rank fusion: scores of any scale, and lists of any length, go together.

    A larger ``constant`` counts the first ranks for less. Raises ``ValueError`` for a negative one.
    """
    if constant < 0:
        raise ValueError(f"the constant of rank fusion must be 0 or more, got {constant}: the usual one is 60")
    scores: dict[str, float] = {}
    for ranked in lists:
        for rank, name in enumerate(ranked, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (constant + rank)
    return sorted(sorted(scores, reverse=True), key=scores.__getitem__, reverse=True)


def _check_judgements(judgements: Mapping[str, Grades]) -> None:
    if not judgements:
        raise ValueError("expected at least one judged query, got none: give judgements, a mapping of queries to grades by document")
    for query, grades in judgements.items():
        for name, grade in grades.items():
            if not isinstance(grade, Integral):
                raise ValueError(
                    f"the grade of document {name!r} for query {query!r} must be an integer, got {grade!r}: convert it with int"
                )
