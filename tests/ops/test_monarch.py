"""Monarch matrices: fast products are those of the matrices written out, the Fourier transform is one, and projections are nearest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.ops.monarch import (
    block_diagonal_dense,
    block_diagonal_multiply,
    block_diagonal_multiply_columns,
    monarch_dense,
    monarch_dft,
    monarch_dft_factors,
    monarch_multiply,
    monarch_multiply_rank,
    monarch_product,
    monarch_product_dense,
    project_to_monarch,
)

REAL, COMPLEX = torch.float64, torch.complex128
NUMBERS = pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])
PAIRS = [((4, 4, 4), (4, 4, 4)), ((4, 9, 6), (6, 5, 6)), ((1, 6, 5), (3, 2, 2)), ((2, 3, 4), (6, 5, 1))]
CHAINS = [
    [(1, 5, 5)],
    [(4, 3, 2)],
    [(4, 4, 4)] * 2,
    [(9, 3, 3)] * 3,
    [(8, 2, 2)] * 4,
    [(6, 5, 4), (10, 2, 3), (10, 7, 2)],  # 24 -> 30 -> 20 -> 70
]


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def _agree(one: Tensor, other: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    weight = torch.randn_like(one)
    mine, theirs = (torch.autograd.grad((y * weight).sum().real, inputs) for y in (one, other))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@NUMBERS
@pytest.mark.parametrize("shape", [(1, 3, 5), (4, 2, 3), (6, 7, 1)])
def test_order_1_is_block_diagonal(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, w = _random((2, 3, shape[0] * shape[2]), dtype), _random(shape, dtype)
    y = block_diagonal_multiply(x, w)
    _agree(y, x @ block_diagonal_dense(w).mT, [x, w])
    assert torch.equal(monarch_product(x, [w]), y)
    columns = _random((shape[0] * shape[2], 7), dtype)
    _agree(block_diagonal_multiply_columns(columns, w), block_diagonal_dense(w) @ columns, [columns, w])


@NUMBERS
@pytest.mark.parametrize("shapes", PAIRS)
def test_order_2_is_the_matrix_written_out(shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    w1, w2 = (_random(shape, dtype) for shape in shapes)
    x = _random((2, 3, shapes[0][0] * shapes[0][2]), dtype)
    _agree(monarch_multiply(x, w1, w2), x @ monarch_dense(w1, w2).mT, [x, w1, w2])
    entries = torch.zeros_like(monarch_dense(w1, w2))
    (_, q, p), (blocks, s, r) = shapes
    for row in range(s * blocks):
        for column in range(x.shape[-1]):
            for hidden in range(column // p * q, (column // p + 1) * q):  # the outputs of this column's block
                if hidden % blocks == row % blocks:
                    second = w2[row % blocks, row // blocks, hidden // blocks]
                    entries[row, column] += (second * w1[column // p, hidden % q, column % p]).detach()
    torch.testing.assert_close(monarch_dense(w1, w2), entries, rtol=0, atol=1e-12)


@NUMBERS
@pytest.mark.parametrize("shapes", CHAINS, ids=len)
def test_order_p_is_the_matrix_written_out(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    factors = [_random(shape, dtype) for shape in shapes]
    x = _random((3, shapes[0][0] * shapes[0][2]), dtype)
    y = monarch_product(x, factors)
    _agree(y, x @ monarch_product_dense(factors).mT, [x, *factors])
    if len(factors) == 2:
        torch.testing.assert_close(y, monarch_multiply(x, *factors), rtol=0, atol=1e-12)


def test_every_digit_comes_home() -> None:
    """Factors that multiply one digit by one matrix each are a Kronecker product."""
    torch.manual_seed(0)
    first, second, third = (torch.randn(size, size, dtype=REAL) for size in (2, 3, 4))
    factors = [third.expand(6, -1, -1), second.expand(8, -1, -1), first.expand(12, -1, -1)]
    torch.testing.assert_close(monarch_product_dense(factors), torch.kron(first, torch.kron(second, third)), rtol=0, atol=1e-12)


def test_blocks_of_a_rank() -> None:
    torch.manual_seed(0)
    x, w1, w2 = _random((3, 20), REAL), _random((4, 6, 5), REAL), _random((3, 6, 8), REAL)
    parts = torch.einsum("krji,jlkr->ljki", w1.unflatten(1, (2, 3)), w2.unflatten(2, (4, 2)))
    _agree(monarch_multiply_rank(x, w1, w2), x @ parts.flatten(2).flatten(0, 1).mT, [x, w1, w2])


@pytest.mark.parametrize(("shape", "sizes"), [((16, 16), None), ((24, 24), (6, 4)), ((24, 24), None), ((30, 24), (4, 6)), ((8, 12), None)])
def test_the_nearest_monarch_matrix(shape: tuple[int, int], sizes: tuple[int, int] | None) -> None:
    """Projecting twice changes nothing, the rest is orthogonal to the projection, and no step away from it comes nearer."""
    torch.manual_seed(0)
    dense = torch.randn(shape, dtype=REAL)
    w1, w2 = project_to_monarch(dense, sizes)
    near = monarch_dense(w1, w2)
    torch.testing.assert_close(monarch_dense(*project_to_monarch(near, sizes)), near, rtol=0, atol=1e-12)
    assert abs(float((near * (dense - near)).sum())) < 1e-10
    distance = (dense - near).norm()
    for _ in range(20):
        moved = monarch_dense(w1 + 0.01 * torch.randn_like(w1), w2 + 0.01 * torch.randn_like(w2))
        assert (dense - moved).norm() > distance


def test_a_projection_of_higher_rank_is_nearer_and_at_full_rank_exact() -> None:
    torch.manual_seed(0)
    dense = torch.randn(12, 12, dtype=COMPLEX)
    errors = [(monarch_dense(*project_to_monarch(dense, (4, 3), rank)) - dense).norm() for rank in (1, 2, 3)]
    assert errors[0] > errors[1] > 1 and errors[2] < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 6, 37, 64, 96, 1024])
def test_the_fourier_transform_is_a_monarch_matrix(n: int, order: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, n, dtype=COMPLEX)
    settings: list[dict[str, Any]] = [{"norm": norm, "inverse": inverse} for norm in ("ortho", "backward") for inverse in (False, True)]
    for setting in settings:
        transform = torch.fft.ifft if setting["inverse"] else torch.fft.fft
        expected = transform(x, norm=setting["norm"])
        torch.testing.assert_close(monarch_dft(n, order=order, **setting)(x), expected, rtol=0, atol=1e-11)
        permutation, factors = monarch_dft_factors(n, order=order, dtype=COMPLEX, **setting)
        torch.testing.assert_close(monarch_product(x[..., permutation], factors), expected, rtol=0, atol=1e-11)
        assert [len(factor) * factor.shape[2] for factor in factors] == [n] * order
    torch.testing.assert_close(monarch_dft(n, order=order)(x.real), torch.fft.fft(x.real, norm="ortho"), rtol=0, atol=1e-11)


def test_wrong_inputs() -> None:
    x, w = torch.randn(2, 12), torch.randn(4, 3, 3)
    with pytest.raises(ValueError, match=r"factor 1 of \(4, 3, 3\) must be .* with blocks x inputs = 11"):
        block_diagonal_multiply(x[:, 1:], w)
    with pytest.raises(ValueError, match=r"factor 1 of \(4, 3, 3\) must be .* with blocks x inputs = 11"):
        block_diagonal_multiply_columns(torch.randn(11, 2), w)
    with pytest.raises(ValueError, match=r"factor 2 of \(4, 3, 3\), \(5, 3, 3\) must be .* with blocks x inputs = 12"):
        monarch_multiply(x, w, torch.randn(5, 3, 3))
    with pytest.raises(ValueError, match="at least one factor"):
        monarch_product(x, [])
    with pytest.raises(ValueError, match="of one rank r"):
        monarch_multiply_rank(x, w, torch.randn(2, 3, 6))
    with pytest.raises(ValueError, match="of one rank r"):
        monarch_multiply_rank(x, w, torch.randn(0, 3, 6))
    with pytest.raises(ValueError, match="at least one factor"):
        monarch_product_dense([])
    for written_out in (monarch_dense, lambda *factors: monarch_product_dense(factors)):
        with pytest.raises(ValueError, match=r"factor 2 of \(4, 3, 3\), \(5, 3, 3\) must be .* with blocks x inputs = 12"):
            written_out(w, torch.randn(5, 3, 3))
    with pytest.raises(ValueError, match="0 blocks must divide 12 columns"):
        project_to_monarch(torch.randn(12, 12), (0, 4))
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 2"):
        project_to_monarch(torch.randn(0, 0))
    with pytest.raises(ValueError, match="5 blocks must divide 12 columns"):
        project_to_monarch(torch.randn(12, 12), (5, 4))
    with pytest.raises(ValueError, match="one matrix at a time"):
        project_to_monarch(torch.randn(2, 12, 12))
    with pytest.raises(ValueError, match="ranks from 1 to 3, got rank 4"):
        project_to_monarch(torch.randn(12, 12), (4, 3), 4)
    with pytest.raises(ValueError, match="must be at least 1, got 8 and 0"):
        monarch_dft(8, order=0)
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 2"):
        monarch_dft(0)
    with pytest.raises(ValueError, match="expected 8 points in the last dimension, got 7"):
        monarch_dft(8)(torch.randn(2, 7))
    with pytest.raises(ValueError, match="norm must be"):
        monarch_dft(8, norm="forward")  # type: ignore[arg-type]
