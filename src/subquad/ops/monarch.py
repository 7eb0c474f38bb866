"""Monarch matrices (arXiv 2310.12109): block-diagonal matrices and fixed permutations in alternation, in place of a dense matrix.

A factor is a tensor (blocks, outputs, inputs), one small matrix a block. Order 1 is one factor; order 2 acts on the rows and then on the
columns of the input laid out as a matrix; order p acts on p digits of the index, one after the other:

    order 2    y[s, l] = sum over r of w2[l, s, r] h[r, l],   h = w1 x block by block, reshaped to (r, l)
    order p    in turn: x becomes (blocks, inputs), each block is multiplied, and the last digit moves to the front

The discrete Fourier transform is one of any order: with N = a M, n = M n1 + m and f = f1 + a g,

    X[f1 + a g] = sum over m of w_M^(m g) [ w_N^(m f1) sum over n1 of w_a^(n1 f1) x[M n1 + m] ],   w_n = exp(-2 pi i / n)

where the sum over m is a transform again. Everything is matrix products, reshapes and transposes. N numbers cost p N^(1 + 1/p) parameters
and twice as many FLOPs, where a dense matrix has N^2. Real and complex numbers alike; ``*_dense`` are the slow twins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from subquad.ops.autocast import float64_device

Norm = Literal["ortho", "backward"]


def block_diagonal_multiply(x: Tensor, w: Tensor) -> Tensor:
    """x (..., k p) times the block-diagonal matrix of w (k, q, p) -> (..., k q)."""
    _check_factors(x.shape[-1], (w,))
    blocks, outputs, inputs = w.shape
    dtype = torch.result_type(x, w)
    rows = x.to(dtype).reshape(-1, blocks, inputs).transpose(0, 1)
    return torch.bmm(rows, w.to(dtype).mT).transpose(0, 1).reshape(*x.shape[:-1], blocks * outputs)


def block_diagonal_multiply_columns(x: Tensor, w: Tensor) -> Tensor:
    """The same of columns, x (k p, N) -> (k q, N), of the same type: channels first, the product needs no copy."""
    _check_factors(x.shape[0], (w,))
    blocks, _, inputs = w.shape
    return torch.bmm(w, x.unflatten(0, (blocks, inputs))).flatten(0, 1)


def monarch_multiply(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """The product of order 2, square or rectangular: x (..., k p), w1 (k, q, p), w2 (l, s, r) with l r = k q -> (..., s l)."""
    _check_factors(x.shape[-1], (w1, w2))
    blocks, outputs, inputs = w2.shape
    hidden = block_diagonal_multiply(x, w1)
    return _turn(block_diagonal_multiply(_turn(hidden, inputs, blocks), w2), blocks, outputs)


def monarch_multiply_rank(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """The product whose blocks have rank r: x (..., k i), w1 (k, r j, i), w2 (j, l, k r) -> (..., l j).

    Entry ((l, j), (k, i)) is the sum over r of w2[j, l, k r] w1[k, r j, i]: ``monarch_multiply`` with r j outputs in each block of w1.
    """
    misfit = w1.ndim != 3 or w2.ndim != 3 or w2.shape[0] == 0
    if misfit or w1.shape[1] % w2.shape[0] or w2.shape[2] != w1.shape[0] * (w1.shape[1] // w2.shape[0]):
        raise ValueError(f"expected w1 (k, r j, i) and w2 (j, l, k r) of one rank r, got {tuple(w1.shape)} and {tuple(w2.shape)}")
    return monarch_multiply(x, w1, w2)


def monarch_product(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The product of order p = len(factors): x (..., N), factor i (N_i / d, e, d) maps one digit of size d to one of size e.

    The first factor acts on the last digit; after each one the digit moves to the front, so that after p factors all are home. Square
    Monarch matrices have p factors (N / b, b, b) with b^p = N. One factor alone is block-diagonal, and nothing moves; two are those of
    ``monarch_multiply``, of any blocks.
    """
    _check_factors(x.shape[-1], factors)
    if len(factors) == 2:
        return monarch_multiply(x, *factors)
    y = block_diagonal_multiply(x, factors[0])
    for before, factor in zip(factors, factors[1:], strict=False):
        y = block_diagonal_multiply(_turn(y, *before.shape[:2]), factor)
    return y if len(factors) == 1 else _turn(y, *factors[-1].shape[:2])


def block_diagonal_dense(w: Tensor) -> Tensor:
    """w (k, q, p) written out, (k q, k p)."""
    return torch.block_diag(*w)


def monarch_dense(w1: Tensor, w2: Tensor) -> Tensor:
    """Slow twin of ``monarch_multiply``: the matrix (outputs, inputs) as the product of its four factors."""
    _check_factors(_inputs((w1,)), (w1, w2))
    blocks, outputs, inputs = w2.shape
    back, between = _turn_dense(blocks, outputs, w1), _turn_dense(inputs, blocks, w1)
    return back @ block_diagonal_dense(w2) @ between @ block_diagonal_dense(w1)


def monarch_product_dense(factors: Sequence[Tensor]) -> Tensor:
    """Slow twin of ``monarch_product``: the matrix (outputs, inputs), factor by factor."""
    _check_factors(_inputs(factors), factors)
    if len(factors) == 2:
        return monarch_dense(*factors)
    matrix = block_diagonal_dense(factors[0])
    if len(factors) == 1:
        return matrix
    for before, factor in zip(factors, factors[1:], strict=False):
        matrix = block_diagonal_dense(factor) @ _turn_dense(before.shape[0], before.shape[1], matrix) @ matrix
    return _turn_dense(factors[-1].shape[0], factors[-1].shape[1], matrix) @ matrix


def project_to_monarch(dense: Tensor, sizes: tuple[int, int] | None = None, rank: int = 1) -> tuple[Tensor, Tensor]:
    """The Monarch matrix nearest to a dense one (rows, columns) in Frobenius norm, as w1 and w2 of ``monarch_multiply``.

    ``sizes`` are the blocks of w1, which divide the columns, and of w2, which divide the rows; by default the nearest to a square root, and
    the larger first. Rows (s, l) and columns (k, p) of a Monarch matrix form a matrix of rank 1 for every l and k (of ``rank``, in the
    form of ``monarch_multiply_rank``), so truncated singular value decompositions give the nearest one (arXiv 2204.00595, section 3.4).
    """
    if dense.ndim != 2:
        raise ValueError(f"expected a matrix (rows, columns), got a tensor {tuple(dense.shape)}: project one matrix at a time")
    rows, columns = dense.shape
    first, second = sizes or (columns // even_factors(columns, 2)[0], even_factors(rows, 2)[0])
    if min(first, second) < 1 or columns % first or rows % second:
        raise ValueError(f"{first} blocks must divide {columns} columns and {second} blocks {rows} rows: give other sizes")
    parts = dense.unflatten(1, (first, -1)).unflatten(0, (-1, second)).permute(1, 2, 0, 3)  # (l, k, s, p)
    if not 1 <= rank <= min(parts.shape[-2:]):
        raise ValueError(f"parts of {parts.shape[-2]} x {parts.shape[-1]} have ranks from 1 to {min(parts.shape[-2:])}, got rank {rank}")
    left, values, right = torch.linalg.svd(parts, full_matrices=False)
    root = values[..., :rank].sqrt()
    w1 = (root.unsqueeze(-1) * right[..., :rank, :]).permute(1, 2, 0, 3).flatten(1, 2)
    w2 = (left[..., :rank] * root.unsqueeze(-2)).permute(0, 2, 1, 3).flatten(2)
    return w1.contiguous(), w2.contiguous()


def monarch_dft(n: int, inverse: bool = False, norm: Norm = "ortho", order: int = 2) -> Callable[[Tensor], Tensor]:
    """The transform of ``n`` points as a Monarch matrix: a callable on (..., n), real or complex -> complex.

    ``norm`` is as in ``torch.fft``: "ortho" scales both directions by 1 / sqrt(n), "backward" the inverse alone by 1 / n. All blocks of a
    factor are one small transform and a twist between two of them: n numbers a level, computed in float64 at every call so that
    nothing is held between calls, where ``monarch_dft_factors`` makes ``order`` times n^(1 + 1 / order) once.
    """
    radices, scale = even_factors(n, order), _scale(n, inverse, norm)

    def transform(x: Tensor) -> Tensor:
        if x.shape[-1] != n:
            raise ValueError(f"expected {n} points in the last dimension, got {x.shape[-1]}")
        return _transform(x.to(torch.promote_types(x.dtype, torch.complex64)), radices, inverse) * scale

    return transform


def monarch_dft_factors(
    n: int, inverse: bool = False, norm: Norm = "ortho", order: int = 2, dtype: torch.dtype = torch.complex64
) -> tuple[Tensor, list[Tensor]]:
    """The same matrix in full: ``monarch_product(x[..., permutation], factors)`` is the transform. Returns both.

    With digits n1 .. np of the time and f1 .. fp of the frequency, factor i holds w^(ni (f1 + r1 f2 + ... )) up to fi: its blocks differ by
    the digits of the frequency that are already there.
    """
    radices = even_factors(n, order)
    permutation = torch.arange(n).reshape(radices).permute(*reversed(range(order))).flatten()
    factors, done = [], 1
    for radix in radices:
        digits = torch.arange(done).repeat_interleave(n // (done * radix))  # those of the frequency so far, block by block
        frequency = digits[:, None, None] + done * torch.arange(radix)[:, None]
        factors.append(roots_of_unity(frequency * torch.arange(radix), done * radix, inverse).to(dtype) * _scale(radix, inverse, norm))
        done *= radix
    return permutation, factors


def roots_of_unity(power: Tensor, n: int, inverse: bool = False) -> Tensor:
    """w_n^power for integers, or with the opposite sign; exact to the last digit: the angle is reduced while it is an integer.

    In complex128, so on the CPU where the device has no float64.
    """
    angle = (power % n).to(float64_device(power.device)).double() * ((2 if inverse else -2) * math.pi / n)
    return torch.polar(torch.ones_like(angle), angle)


def _transform(x: Tensor, radices: Sequence[int], inverse: bool) -> Tensor:
    """The formula of the module's docstring, without scale: (..., N) -> (..., N)."""
    first, rest = radices[0], math.prod(radices[1:])
    step = torch.arange(first, device=x.device)
    small = roots_of_unity(torch.outer(step, step), first, inverse).to(x)
    if len(radices) == 1:
        return x @ small
    twist = roots_of_unity(torch.outer(torch.arange(rest, device=x.device), step), first * rest, inverse).to(x)
    columns = (x.unflatten(-1, (first, rest)).mT @ small) * twist  # (..., m, f1)
    return _transform(columns.mT, radices[1:], inverse).mT.flatten(-2)


def even_factors(n: int, order: int) -> tuple[int, ...]:
    """``order`` factors of n as near to each other as can be, the smallest first."""
    if n < 1 or order < 1:
        raise ValueError(f"the size and the order (its number of factors) must be at least 1, got {n} and {order}")
    if order == 1:
        return (n,)
    first = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0 and d**order <= n)
    return (first, *even_factors(n // first, order - 1))


def _scale(n: int, inverse: bool, norm: str) -> float:
    if norm not in ("ortho", "backward"):
        raise ValueError(f"norm must be 'ortho' or 'backward', got {norm!r}")
    return n**-0.5 if norm == "ortho" else 1 / n if inverse else 1.0


def _turn(x: Tensor, rows: int, columns: int) -> Tensor:
    """(..., rows columns), a matrix row by row, read column by column."""
    return x.unflatten(-1, (rows, columns)).mT.flatten(-2)


def _turn_dense(rows: int, columns: int, like: Tensor) -> Tensor:
    """``_turn`` as a permutation matrix."""
    whole = torch.eye(rows * columns, dtype=like.dtype, device=like.device)
    return whole.unflatten(0, (rows, columns)).transpose(0, 1).flatten(0, 1)


def _inputs(factors: Sequence[Tensor]) -> int:
    """What the first factor reads; 0 where it is none, which ``_check_factors`` then says."""
    return factors[0].shape[0] * factors[0].shape[2] if factors and factors[0].ndim == 3 else 0


def _check_factors(length: int, factors: Sequence[Tensor]) -> None:
    if not factors:
        raise ValueError("a Monarch product needs at least one factor (blocks, outputs, inputs)")
    for index, factor in enumerate(factors):
        if factor.ndim != 3 or factor.shape[0] * factor.shape[2] != length:
            shapes = ", ".join(str(tuple(factor.shape)) for factor in factors)
            raise ValueError(
                f"factor {index + 1} of {shapes} must be (blocks, outputs, inputs) with blocks x inputs = {length}, "
                f"its number of inputs: pad the input or change the blocks"
            )
        length = factor.shape[0] * factor.shape[1]
