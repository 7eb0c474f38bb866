"""Losses of pairs: equal to their formulas written out, unchanged by the order of a batch, and least where pairs are told apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from subquad.objectives.contrastive import infonce, negatives_only, orthogonal


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of 4 queries and 6 passages, in which some answer queries beside the own one."""
    torch.manual_seed(0)
    similarity = (2 * torch.rand(4, 6, dtype=torch.float64) - 1).requires_grad_()
    own = torch.tensor([2, 0, 2, 5])
    known = torch.nn.functional.one_hot(own, 6).bool()
    known[0, 4] = known[3, 0] = known[3, 1] = True
    return similarity, own, known


def test_infonce_is_its_formula(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    similarity, own, known = drawn
    expected = []
    for row, place, right in zip(similarity.tolist(), own.tolist(), known.tolist(), strict=True):
        others = sum(math.exp(value / 0.2) for value, one in zip(row, right, strict=True) if not one)
        expected.append(-math.log(math.exp(row[place] / 0.2) / (math.exp(row[place] / 0.2) + others)))
    found = infonce(similarity, own, known, 0.2)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), similarity)
    other = known.scatter(1, own[:, None], False)
    assert (gradient[other] == 0).all() and (gradient[~known] > 0).all() and (gradient.gather(1, own[:, None]) < 0).all()


def test_the_orthogonal_loss_is_its_formula(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    similarity, _, known = drawn
    pairs = [list(zip(row, right, strict=True)) for row, right in zip(similarity.tolist(), known.tolist(), strict=True)]
    expected = [sum((value - (1.0 if right else 0.0)) ** 2 for value, right in row) / 6 for row in pairs]
    assert orthogonal(similarity, known).tolist() == pytest.approx(expected, rel=1e-12)
    assert orthogonal(known.double(), known).tolist() == [0, 0, 0, 0]


def test_the_order_of_a_batch_changes_nothing(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    similarity, own, known = drawn
    rows, columns = torch.tensor([3, 1, 0, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    moved = columns.argsort()[own][rows]
    shuffled = [one[rows][:, columns] for one in (similarity, known)]
    torch.testing.assert_close(infonce(shuffled[0], moved, shuffled[1], 0.1), infonce(similarity, own, known, 0.1)[rows])
    torch.testing.assert_close(orthogonal(*shuffled), orthogonal(similarity, known)[rows])


def test_other_right_passages_do_not_contend(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    similarity, own, known = drawn
    left = negatives_only(similarity, own, known)
    assert left.isinf().nonzero().tolist() == [[0, 4], [3, 0], [3, 1]]
    alone = torch.ones(1, 1, dtype=torch.bool)
    assert infonce(torch.tensor([[0.3]]), torch.tensor([0]), alone, 0.05).item() == 0
