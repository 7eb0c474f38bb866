"""Rotary position embedding (RoFormer, arXiv 2104.09864): a rotation of channel pairs by an angle that grows with the position.

The product of a rotated query and a rotated key depends on the distance of their positions alone. Angles are computed in float64: at
position 10^6 float32 angles are off by 0.06 radian, float64 ones by 10^-10.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

STEPS = 256  # positions of a table that decoding makes at a time


def _signed_rates(head_dim: int, base: float) -> tuple[float, ...]:
    """Radians a position for each channel; the first half negative, which leaves cosines as they are and turns the signs of sines."""
    rates = [base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    return (*(-rate for rate in rates), *rates)


def rotary_table(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for ``rotate``: positions (...) -> two tensors (..., head_dim) of ``dtype``."""
    rates = torch.tensor(_signed_rates(head_dim, base), dtype=torch.float64, device=positions.device)
    angles = positions.unsqueeze(-1) * rates
    return angles.cos().to(dtype), angles.sin().to(dtype)


def run_table(start: int, count: int, head_dim: int, base: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """``rotary_table`` of positions start .. start + count - 1, kept for the next layer and, one position at a time, for the next ones."""
    if count > 1:
        return _kept_table(start, count, head_dim, base, dtype, device)
    origin = start // STEPS * STEPS
    cos, sin = _kept_table(origin, STEPS, head_dim, base, dtype, device)
    return cos[start - origin : start - origin + 1], sin[start - origin : start - origin + 1]


@lru_cache(maxsize=4)
def _kept_table(start: int, count: int, head_dim: int, base: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():  # a table made while decoding must serve training too
        return rotary_table(torch.arange(start, start + count, device=device), head_dim, base, dtype)


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
