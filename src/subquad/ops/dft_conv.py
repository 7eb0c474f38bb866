"""Long convolutions by a Fourier transform of real numbers that is a Monarch matrix of order 2 or 3 (arXiv 2310.12109, section 3).

With N = a M, n = M n1 + m and f = f1 + a g, the transform is two steps with a twist between them:

    U[f1, m] = sum over n1 of w_a^(n1 f1) x[n1, m],     X[f1 + a g] = sum over m of w_M^(m g) w_N^(m f1) U[f1, m],   w_n = exp(-2 pi i / n)

Of real x only f1 = 0 .. a / 2 are needed, since U[a - f1] is the conjugate of U[f1]: the first step multiplies real numbers by cosines and
sines into half the columns, the second continues with these, and no half of either is wasted. Rows n1 of padding are left out of the first
step. Order 3 takes the sum over m in two steps again. Frequencies stay in the order in which the products leave them, complex numbers are
pairs of real ones, and the inverse is the transpose: matrix products, reshapes and transposes throughout.

Multiplications a channel at L positions, N = 2 L, there and back: N (a + 4 M) at order 2, N (a + 4 b + 4 c) at order 3 with M = b c, where
complex transforms of the padded input take 8 N (a + M).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32, full_precision
from subquad.ops.monarch import roots_of_unity

ORDER_3_FROM = 1 << 13  # points; from here on the matrices of order 3 are at least 16 wide, as matrix units want them

Pair = tuple[Tensor, Tensor]  # real and imaginary parts


def dft_radices(least: int) -> tuple[int, ...]:
    """Sizes (a, M) or (a, b, c) of a transform of ``least`` points or a few more; M, b and c are powers of two.

    The first step costs a quarter of the others, so it is the widest: a is about 4 M, or 4 b.
    """
    inner = 1 if least < ORDER_3_FROM else 2
    width: int = 2 ** round(max(math.log2(max(least, 1) / 4), 0) / (inner + 1))
    return (-(-least // width**inner), *(width,) * inner)


class RealDFT:
    """The transform of N real numbers, N the product of ``radices``, and its transpose, scaled so that the one undoes the other.

    It runs in the type of ``like``, float32 or better, and on its device.
    """

    def __init__(self, radices: Sequence[int], like: Tensor) -> None:
        first, *inner = radices
        half = first // 2 + 1
        self.radices, self.rest, self.size = tuple(radices), math.prod(inner), math.prod(radices)
        self.dtype, self.device = at_least_float32(like.dtype), like.device
        self_conjugate = [f1 in (0, first / 2) for f1 in range(half)]  # the others stand for two frequencies each
        self.weight = torch.tensor([1.0 if single else 2**0.5 for single in self_conjugate], dtype=self.dtype, device=self.device)  # (h,)
        real, imag = (part * self.weight.unsqueeze(1) for part in self._roots(half, first, first))
        self.waves = torch.cat((real, imag)) * first**-0.5  # (2 h, a)
        self.small = [_matrix(self._roots(radix, radix, radix)).mul_(radix**-0.5) for radix in inner]  # (2 M, 2 M)
        self.twist = self._roots(half, self.rest, self.size)  # (h, M) twice
        self.inner_twist = self._roots(inner[0], inner[1], self.rest) if len(inner) > 1 else None  # by g1 and m2, (b, c) twice

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) with n up to N -> (..., a / 2 + 1, 2, M), or (..., a / 2 + 1, b, 2, c); what is missing of x counts as zeros."""
        rows = -(-x.shape[-1] // self.rest)
        x = F.pad(x, (0, rows * self.rest - x.shape[-1])).unflatten(-1, (rows, self.rest))
        real, imag = self._product(self.waves[:, :rows], x).chunk(2, -2)
        z = pair_product((real, imag), self.twist)
        if self.inner_twist is not None:
            z = z.unflatten(-1, self.inner_twist[0].shape).movedim(-1, -3)  # (..., m2, 2, m1)
            real, imag = self._product(z.flatten(-2), self.small[0]).mT.chunk(2, -2)  # (..., g1, m2)
            z = pair_product((real, imag), self.inner_twist)
        return self._product(z.flatten(-2), self.small[-1]).unflatten(-1, (2, -1))

    def transpose(self, z: Tensor, length: int) -> Tensor:
        """The transpose of ``forward``, its inverse where z is the transform of real numbers: the first ``length`` of them."""
        z = self._product(z.flatten(-2), self.small[-1].mT).unflatten(-1, (2, -1))
        if self.inner_twist is not None:
            z = pair_product(_parts(z), _conjugate(self.inner_twist)).movedim(-1, -3)  # (..., m2, g1, 2)
            z = self._product(z.mT.flatten(-2), self.small[0].mT).unflatten(-1, (2, -1)).movedim(-3, -1).flatten(-2)
        z = pair_product(_parts(z), _conjugate(self.twist))
        rows = -(-length // self.rest)
        z = z.transpose(-3, -2).flatten(-3, -2)  # (..., 2 h, M)
        return self._product(self.waves[:, :rows].mT, z).flatten(-2)[..., :length]

    def filter(self, k: Tensor) -> Tensor:
        """What ``forward`` of an input is multiplied with, pair by pair, to convolve it with k (..., taps)."""
        z = self.forward(k)
        return z * (self.size**0.5 / self.weight).reshape(-1, *(1,) * (z.ndim - k.ndim))

    def _product(self, x: Tensor, y: Tensor) -> Tensor:
        with full_precision(self.device):
            return x.to(self.dtype) @ y.to(self.dtype)

    def _roots(self, rows: int, columns: int, n: int) -> Pair:
        power = torch.outer(torch.arange(rows, device=self.device), torch.arange(columns, device=self.device))
        roots = roots_of_unity(power, n)
        return roots.real.to(self.device, self.dtype), roots.imag.to(self.device, self.dtype)


def pair_product(x: Pair, y: Pair) -> Tensor:
    """Complex products of pairs (..., n) -> (..., 2, n)."""
    return torch.stack((x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]), -2)


def dft_conv(u: Tensor, spectrum: Tensor, dft: RealDFT) -> Tensor:
    """The circular convolution on N points of u (B, D, L), L up to N, with filters given by ``dft.filter``; its first L positions."""
    return dft.transpose(pair_product(_parts(dft.forward(u)), _parts(spectrum)), u.shape[-1])


def _parts(z: Tensor) -> Pair:
    real, imag = z.unbind(-2)
    return real, imag


def _conjugate(pair: Pair) -> Pair:
    return pair[0], -pair[1]


def _matrix(pair: Pair) -> Tensor:
    """The real matrix that multiplies pairs laid out as real parts, then imaginary ones."""
    real, imag = pair
    return torch.cat((torch.cat((real, imag), 1), torch.cat((-imag, real), 1)))
