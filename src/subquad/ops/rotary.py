"""Rotary position embedding (RoFormer, arXiv 2104.09864): a rotation of channel pairs by an angle that grows with the position.

The product of a rotated query and a rotated key depends on the distance of their positions alone. Angles are computed in float64: at
position 10^6 float32 angles are off by 0.06 radian, float64 ones by 10^-10. B batch, T positions, d channels that rotate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.autocast import float64_device
from subquad.ops.ragged import run_index

STEPS = 64  # positions of a table that decoding makes at a time: one table a step would cost a small model a tenth of it

Rotation = tuple[Tensor, Tensor]  # cosines and signed sines for ``rotate``, (T, d) or (B, T, d)


def rotary_table(positions: Tensor, dim: int, base: float, dtype: torch.dtype) -> Rotation:
    """Cosines and signed sines for ``rotate``: positions (...) -> two tensors (..., dim) of ``dtype``.

    Sines are negative in the first half of the channels, positive in the second.
    """
    device = float64_device(positions.device)
    rates = torch.tensor([base ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64, device=device)  # radians a position
    angles = positions.to(device).unsqueeze(-1) * rates  # (..., dim / 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), -1).to(positions.device), torch.cat((-sin, sin), -1).to(positions.device)


@dataclass(frozen=True, eq=False)
class RotarySteps:
    """The table of ``STEPS`` positions from ``first`` on. A decoding state holds one, so that not every step makes its own."""

    first: int
    cos: Tensor  # (STEPS, d)
    sin: Tensor  # (STEPS, d)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.cos.nbytes + self.sin.nbytes

    def at(self, position: int) -> Rotation:
        """That of one position, (1, d)."""
        index = position - self.first
        return self.cos[index : index + 1], self.sin[index : index + 1]


def next_rotation(
    steps: RotarySteps | None, starts: Sequence[int], count: int, dim: int, base: float, dtype: torch.dtype, device: torch.device
) -> tuple[Rotation, RotarySteps | None]:
    """Tables of the next ``count`` positions, (count, d) or (B, count, d) where rows are at different offsets, and the next state."""
    if count != 1 or len(set(starts)) != 1:
        return rotary_table(run_index(starts, count, device), dim, base, dtype), steps
    position = starts[0]
    if steps is None or not 0 <= position - steps.first < STEPS or steps.cos.dtype != dtype:
        first = position // STEPS * STEPS
        steps = RotarySteps(first, *rotary_table(run_index([first], STEPS, device), dim, base, dtype))
    return steps.at(position), steps


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel i with channel i + half: x (..., dim) and tables that broadcast against it. Runs in the tables' dtype."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def rotate_direct(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Slow twin of ``rotary_table`` and ``rotate``: each pair is a complex number times exp(i * position * rate)."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    rates = torch.tensor([base ** (-i / half) for i in range(half)], dtype=x.dtype, device=x.device)
    angles = positions.to(x.dtype).unsqueeze(-1) * rates
    rotated = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((rotated.real, rotated.imag), -1)
