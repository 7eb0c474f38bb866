"""Long convolutions in two dimensions: filters as large as the image, never circular.

    y[r, c] = skip u[r, c] + sum over i, j of k[i, j] u[r - i + center[0], c - j + center[1]]

Shapes: u (B, D, H, W), k (D, Kh, Kw), skip (D,); B batch, D channels, H rows, W columns. Cost in the pixels N: N log N.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32
from subquad.ops.fft_conv import fast_size
from subquad.ops.long_conv import check_filters


def long_conv_2d(u: Tensor, k: Tensor, skip: Tensor | None = None, *, center: tuple[int, int] = (0, 0)) -> Tensor:
    """Two-dimensional long convolution of images u (B, D, H, W) with filters k (D, Kh, Kw) as large as the image or larger.

    y[r, c] = skip u[r, c] + sum over i, j of k[i, j] u[r - i + center[0], c - j + center[1]], zeros outside: with ``center`` (0, 0) it
    looks up and left only; with (H - 1, W - 1) and filters of (2 H - 1, 2 W - 1) every pixel sees every other.
    """
    if u.ndim != 4 or k.ndim != 3 or not (0 <= center[0] < k.shape[-2] and 0 <= center[1] < k.shape[-1]):
        shapes = f"{tuple(u.shape)}, {tuple(k.shape)} and {center}"
        raise ValueError(f"u must be (B, D, H, W), k (D, Kh, Kw) and center a place in k, got {shapes}")
    check_filters(u.flatten(2), k.flatten(1), None)
    if u.numel() == 0:
        return torch.zeros_like(u)
    rows, columns = u.shape[-2:]
    dtype = at_least_float32(u.dtype)
    size = (fast_size(rows + k.shape[-2] - 1), fast_size(columns + k.shape[-1] - 1))
    product = torch.fft.rfft2(u.to(dtype), size) * torch.fft.rfft2(k.to(dtype), size)
    y = torch.fft.irfft2(product, size)[..., center[0] : center[0] + rows, center[1] : center[1] + columns]
    return (y if skip is None else y + skip[:, None, None] * u).to(u.dtype)


def long_conv_2d_direct(u: Tensor, k: Tensor, skip: Tensor | None = None, *, center: tuple[int, int] = (0, 0)) -> Tensor:
    """Slow twin of ``long_conv_2d``: the sum as it is written."""
    rows, columns = u.shape[-2:]
    high, wide = k.shape[-2:]
    padded = F.pad(u, (wide, wide, high, high))
    y = torch.zeros_like(u) if skip is None else skip[:, None, None] * u
    for i in range(high):
        for j in range(wide):
            top, left = high - i + center[0], wide - j + center[1]
            y = y + k[:, i, j, None, None] * padded[..., top : top + rows, left : left + columns]
    return y
