"""Monarch matrices (arXiv 2310.12109): products of block-diagonal matrices and fixed permutations, O(N^1.5) at order 2.

The discrete Fourier transform is one: with N = a b, n = b n1 + n0 and f = f1 + a f0,

    X[f1 + a f0] = sum over n0 of w_b^(n0 f0) [ w_N^(n0 f1) sum over n1 of w_a^(n1 f1) x[b n1 + n0] ],   w_m = exp(-2 pi i / m)

which is two products with small matrices and a twist between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor


def monarch_dft(n: int, inverse: bool = False, norm: Literal["ortho", "backward"] = "ortho") -> Callable[[Tensor], Tensor]:
    """The transform of ``n`` points as a Monarch matrix of order 2: a callable on (..., n), real or complex -> complex.

    ``norm`` is as in ``torch.fft``: "ortho" scales both directions by 1 / sqrt(n), "backward" the inverse alone by 1 / n.
    """
    if n < 1:
        raise ValueError(f"a transform needs at least 1 point, got {n}")
    scale = n**-0.5 if norm == "ortho" else 1 / n if inverse else 1.0
    a = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    b = n // a

    def transform(x: Tensor) -> Tensor:
        if x.shape[-1] != n:
            raise ValueError(f"expected {n} points in the last dimension, got {x.shape[-1]}")
        dtype = torch.promote_types(x.dtype, torch.complex64)
        first, twist, second = (_roots(*sizes, inverse, dtype, x.device) for sizes in ((a, a, a), (n, b, a), (b, b, b)))
        rows = x.to(dtype).unflatten(-1, (a, b)).mT @ first  # (..., n0, f1)
        return ((rows * (twist * scale)).mT @ second).mT.flatten(-2)

    return transform


def _roots(n: int, rows: int, columns: int, inverse: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """w_n^(row column), exact to the last digit: angles are reduced as integers and evaluated in double precision."""
    power = torch.outer(torch.arange(rows, device=device), torch.arange(columns, device=device)) % n
    angle = power.double() * ((2 if inverse else -2) * math.pi / n)
    return torch.polar(torch.ones_like(angle), angle).to(dtype)
