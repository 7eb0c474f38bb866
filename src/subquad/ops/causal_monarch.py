"""Causal Monarch maps: M^-1 (M k * M u) with a Monarch matrix M whose rows evaluate polynomials (arXiv 2310.12109, section 4).

Column j = j1 b + j0 of M holds a polynomial of degree below n = h b at the 2 n roots of unity, b and h the numbers of digits j0 and j1:

    q_j(Z) = l_j0(Z) r_j0,j1(Z^b),   l_j0 with coefficients A[:, j0],   r_j0,j1 with coefficients C_j0[:, j1]

A (b, b) and every C_j0 (h, h) are lower triangular with ones on the diagonal, so q_j has no power below Z^j: with T the matrix of all
coefficients, T[m1 b + m0, j1 b + j0] = A[m0, j0] C_j0[m1, j1], also lower triangular and a
Monarch matrix up to the order of its columns, M = DFT T and

    y = T^-1 first n of (T k conv T u)

Values at 2 n points determine products of degree up to 2 n - 2, so nothing wraps around and y[t] depends on inputs up to t alone. With ones
on the diagonals of A and C and zeros below, this is the causal convolution. Shapes: u (B, D, L) with L up to n, k (D, K), a (b, b),
c (b, h, h). T costs n (b + h) multiplications a channel, its inverse as many; b^2 + b h^2 parameters. T of the first positions is the first
part of T, so a shorter input needs fewer blocks. Position by position: ``ops/online_monarch.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32, full_precision
from subquad.ops.long_conv import Method, Spectrum, long_conv
from subquad.ops.monarch import block_diagonal_multiply, roots_of_unity


def causal_monarch_conv(
    u: Tensor, k: Tensor | Spectrum, a: Tensor, c: Tensor, *, prepared: bool = False, method: Method = "auto"
) -> Tensor:
    """See the module's docstring; -> (B, D, L) in the type of u.

    Only the entries below the diagonals of ``a`` and ``c`` are read. ``prepared`` says that k is T k already,
    as ``prepare_taps`` makes it for L positions or more, or the ``Spectrum`` of that. ``method`` is that of the convolution in the middle.
    Raises ``ValueError`` for shapes that do not fit and more than h b positions.
    """
    if isinstance(k, Tensor):
        if u.ndim != 3 or k.ndim != 2 or u.shape[1] != k.shape[0]:
            raise ValueError(f"u must be (B, D, L) and k (D, K), got {tuple(u.shape)} and {tuple(k.shape)}: give one filter per channel")
        k = k if prepared else prepare_taps(k, u.shape[-1], a, c)
    elif not prepared:
        raise ValueError("a spectrum must be that of T k: make it from prepare_taps(k, ...) and set prepared=True")
    return from_powers(long_conv(to_powers(u, a, c), k, method=method), a, c).to(u.dtype)


def prepare_taps(k: Tensor, length: int, a: Tensor, c: Tensor) -> Tensor:
    """T k, (D, K) -> (D, length): the filter of the convolution in the middle, for inputs of up to ``length`` positions."""
    return to_powers(F.pad(k, (0, length - k.shape[1])), a, c)


def causal_monarch_conv_direct(u: Tensor, k: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """Slow twin of ``causal_monarch_conv``: M written out at all roots of unity, and the inverse of T."""
    basis, length = causal_basis(a, c), u.shape[-1]
    n = basis.shape[0]
    turn = torch.arange(2 * n, device=u.device)
    fourier = roots_of_unity(torch.outer(turn, turn), 2 * n).to(basis.device, torch.promote_types(basis.dtype, torch.complex64))
    m = fourier[:, :n] @ basis.to(fourier.dtype)
    values, taps = (F.pad(x[..., :length], (0, n - x[..., :length].shape[-1])).to(m.dtype) @ m.mT for x in (u, k))
    powers = ((taps * values) @ fourier.conj() / (2 * n)).real[..., :n]
    return torch.linalg.solve_triangular(basis, powers.mT, upper=False).mT[..., :length]


def causal_basis(a: Tensor, c: Tensor) -> Tensor:
    """T written out, (n, n): column j holds the coefficients of polynomial j."""
    parts = torch.einsum("mj,jpq->pmqj", unit_lower(a), unit_lower(c))
    return parts.flatten(2).flatten(0, 1)


def to_powers(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """T x, (..., L) -> (..., L) in float32 or better: values along the basis become coefficients of powers."""
    digits, lower_a, lower_c = _blocks(x, a, c)  # (..., j1, j0)
    h, b = digits.shape[-2:]
    if digits.numel():
        with full_precision(x.device):
            inner = block_diagonal_multiply(digits.mT.flatten(-2), lower_c).unflatten(-1, (b, h))  # (..., j0, m1)
            digits = inner.mT @ lower_a.mT  # (..., m1, m0)
    return digits.flatten(-2)[..., : x.shape[-1]]


def from_powers(y: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """T^-1 y by substitution, (..., L) -> (..., L) in float32 or better."""
    powers, lower_a, lower_c = _blocks(y, a, c)  # (..., m1, m0)
    shape = powers.shape
    if powers.numel():
        with full_precision(y.device):
            inner = torch.linalg.solve_triangular(lower_a.mT, powers.flatten(0, -2), upper=True, left=False, unitriangular=True)
            inner = inner.unflatten(0, (-1, shape[-2])).permute(2, 1, 0)  # (j0, m1, N): all right sides of a block at once
            solved = torch.linalg.solve_triangular(lower_c, inner, upper=False, unitriangular=True)
            powers = solved.permute(2, 1, 0).reshape(shape)
    return powers.flatten(-2)[..., : y.shape[-1]]


def unit_lower(x: Tensor) -> Tensor:
    """The part of (..., n, n) below the diagonal, with ones on it."""
    return x.tril(-1) + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _blocks(x: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (..., L) in whole blocks, (..., h, b), and the triangles of a and c that act on as many, all in float32 or better."""
    if a.ndim != 2 or c.ndim != 3 or c.shape != (a.shape[0], c.shape[1], c.shape[1]) or a.shape[0] != a.shape[1]:
        raise ValueError(f"a must be (b, b) and c (b, h, h), got {tuple(a.shape)} and {tuple(c.shape)}: give b square matrices in c")
    if x.shape[-1] > c.shape[0] * c.shape[1]:
        raise ValueError(f"{x.shape[-1]} positions exceed the {c.shape[0] * c.shape[1]} = h b of a and c: make them larger")
    b, length, dtype = a.shape[0], x.shape[-1], at_least_float32(x.dtype)
    h = -(-length // b)
    blocks = F.pad(x.to(dtype), (0, h * b - length)).unflatten(-1, (h, b))
    return blocks, unit_lower(a).to(dtype), unit_lower(c[:, :h, :h]).to(dtype)
