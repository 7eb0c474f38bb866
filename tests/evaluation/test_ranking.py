"""Measures of rankings: worked by hand, against brute force over all orders, ties; rankings by embeddings of whole documents."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import permutations

import pytest
import torch

from subquad import api
from subquad.evaluation.ranking import Grades, by_embedding, by_score, evaluate, fused
from subquad.models.encoder import Encoder
from tests.objectives.test_masked_lm import MODEL


def measured(ranked: Sequence[str], grades: Grades, k: int = 10) -> tuple[float, float, float]:
    """nDCG@k, recall@k and MRR of one list."""
    ndcg, recall, mrr = evaluate({"q": ranked}, {"q": grades}, (k,), k).values()
    return ndcg, recall, mrr


def test_by_hand() -> None:
    grades = {"a": 3, "b": 2, "c": 0, "d": 1, "e": -1}
    ranked = ["x", "b", "c", "a", "e"]
    found = 2 / math.log2(3) + 3 / math.log2(5)
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert measured(ranked, grades) == pytest.approx((found / ideal, 2 / 3, 1 / 2), rel=1e-12)
    assert measured(ranked, grades, 3) == pytest.approx((2 / math.log2(3) / ideal, 1 / 3, 1 / 2), rel=1e-12)
    assert measured(ranked, grades, 2) == pytest.approx((2 / math.log2(3) / (3 + 2 / math.log2(3)), 1 / 3, 1 / 2), rel=1e-12)
    assert measured(ranked, grades, 1) == (0, 0, 1 / 2)
    assert measured(["x", "c", "e"], grades) == measured(["c"], {"c": 0}) == measured([], grades) == (0, 0, 0)
    usual = dict(zip("abcdef", (3, 2, 3, 0, 1, 2), strict=True))
    assert measured("abcdef", usual)[0] == pytest.approx(0.9608, abs=1e-4)


def test_the_best_order_has_1_and_no_other_more() -> None:
    draw = random.Random(0)
    for _ in range(5):
        grades = {name: draw.randrange(4) for name in "abcdef"} | {"a": 2}
        for k in (2, 10):
            discounted = {
                order: sum(grades[name] / math.log2(rank + 2) for rank, name in enumerate(order[:k])) for order in permutations("abcdef")
            }
            most = max(discounted.values())
            for order in draw.sample(list(discounted), 50):
                relevant = [name for name in order if grades[name] > 0]
                recall = sum(name in order[:k] for name in relevant) / len(relevant)
                expected = (discounted[order] / most, recall, 1 / (order.index(relevant[0]) + 1))
                assert measured(order, grades, k) == pytest.approx(expected, rel=1e-12)


def test_means_are_over_judged_queries() -> None:
    judgements = {"one": {"a": 1}, "two": {"b": 1, "c": 1}, "none": {"a": 0}, "missing": {"a": 1}}
    lists = {"one": ["b", "a"], "two": ["b", "a", "c"], "none": ["a"], "unjudged": ["a"]}
    found = evaluate(lists, judgements, depths=(1, 2))
    assert list(found) == ["ndcg@10", "recall@1", "recall@2", "mrr"]
    assert found["recall@1"] == 0.5 / 4 and found["recall@2"] == 1.5 / 4 and found["mrr"] == 1.5 / 4
    with pytest.raises(ValueError, match="at least one judged query"):
        evaluate(lists, {})
    with pytest.raises(ValueError, match="the list of query 'one' has a document twice"):
        evaluate({"one": ["a", "a"]}, judgements)
    with pytest.raises(ValueError, match="the grade of document 'a' for query 'one' must be an integer, got '2'"):
        evaluate(lists, {"one": {"a": "2"}})  # type: ignore[dict-item]


def test_equal_scores_are_ordered_by_name_backwards() -> None:
    scores = torch.tensor([[1.0, 2, 1, 1], [0, 0, 0, 0]])
    assert by_score(scores, ["b", "a", "d", "c"]) == [["a", "d", "c", "b"], ["d", "c", "b", "a"]]
    assert by_score(scores, ["b", "a", "d", "c"], 2) == [["a", "d"], ["d", "c"]]
    with pytest.raises(ValueError, match="a name for each of 4 documents, got 1"):
        by_score(scores, ["b"])


def test_fused_lists() -> None:
    """Sums of reciprocal ranks, by hand; one list is itself; what is in one list alone has its rank's share; ties as anywhere."""
    assert fused([["a", "b", "c"], ["c", "b", "d"]]) == ["c", "b", "a", "d"]  # c: 1/63 + 1/61, b: 2/62, a: 1/61, d: 1/63
    assert fused([["a", "b", "c"], ["c", "b", "d"]], 1) == ["c", "b", "a", "d"]  # c: 1/4 + 1/2, b: 2/3, a: 1/2, d: 1/4
    assert fused([["a", "b", "e"], ["c", "b", "d"]], 0) == ["c", "b", "a", "e", "d"]  # c, b and a: 1, e and d: 1/3
    assert fused([["a", "b"], ["b", "a"]]) == ["b", "a"]
    ranked = list("hdagx")
    assert fused([ranked]) == fused([ranked, ranked]) == ranked and fused([]) == fused([[], []]) == []
    assert fused([["a", "b", "c"], ["c", "b", "a"], ["b"]]) == ["b", "c", "a"]
    with pytest.raises(ValueError, match="0 or more, got -1"):
        fused([["a"]], -1)


def test_by_embedding() -> None:
    """Whole documents, of any length, beside others or alone."""
    torch.manual_seed(0)
    model = api.build({**MODEL, "max_len": 512})
    assert isinstance(model, Encoder)
    model.double().eval()
    texts = {"short": b"abc", "long": b"xyz" * 160, "same": b"cab"}
    found = by_embedding(model, {"q": b"abc", "r": b"xyz" * 160}, texts)
    vectors = {name: model(torch.tensor([list(text)]), output="embedding")[0].detach() for name, text in texts.items()}
    for query, own in (("q", vectors["short"]), ("r", vectors["long"])):
        cosines = {name: float(own @ vector / own.norm() / vector.norm()) for name, vector in vectors.items()}
        assert found[query] == sorted(cosines, key=lambda name: -cosines[name])
    assert found["q"][0] == "short" and found["r"][0] == "long"
    assert by_embedding(model, {"q": b"abc"}, texts, 1) == {"q": ["short"]}
    with pytest.raises(ValueError, match="a text has 600 ids and the context is 512"):
        by_embedding(model, {"q": b"abc"}, {"d": b"a" * 600})
