"""Rotary position embedding (RoFormer, arXiv 2104.09864): a rotation of channel pairs by an angle that grows with the position.

The product of a rotated query and a rotated key depends on the distance of their positions alone. Angles are computed in float64: at
position 10^6 float32 angles are off by 0.06 radian, float64 ones by 10^-10.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _signed_rates(head_dim: int, base: float) -> tuple[float, ...]:
    """Radians a position for each channel; the first half negative, which leaves cosines as they are and turns the signs of sines."""
    rates = [base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    return (*(-rate for rate in rates), *rates)


def rotary_table(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for ``rotate``: positions (...) -> two tensors (..., head_dim) of ``dtype``."""
    rates = torch.tensor(_signed_rates(head_dim, base), dtype=torch.float64, device=positions.device)
    angles = positions.unsqueeze(-1) * rates
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns channel i with channel i + half: x (..., head_dim) and tables that broadcast against it. Runs in the tables' dtype."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def rotate_direct(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Slow twin of ``rotary_table`` and ``rotate``: each pair is a complex number times exp(i * position * rate)."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    rates = torch.tensor([base ** (-i / half) for i in range(half)], dtype=x.dtype, device=x.device)
    angles = positions.to(x.dtype).unsqueeze(-1) * rates
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), -1)
