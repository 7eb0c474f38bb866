"""Long filters as sums of a few decaying exponentials, which turns a convolution into a recurrence of constant size: approximate.

    k[t] ~ Re sum over m < M of R_m lambda_m^(t - 1) for t >= 1,   |lambda_m| < 1;   k[0] is kept as it is;
    y[t] = k[0] u[t] + Re sum over m of R_m h_m[t],   h_m[t + 1] = lambda_m h_m[t] + u[t].

The form is that of Massaroli et al., "Laughing Hyena Distillery" (arXiv 2310.18780), who find it by gradient descent. Here the poles
come from the filter's Hankel matrix H[i, j] = k[1 + i + j]: its leading eigenvectors span a space that a shift by one tap nearly maps to
itself, and the poles are that map's eigenvalues (ESPRIT: Roy and Kailath, 1989). The eigenvectors take a few products of H with few
vectors, each by FFT (Halko et al., arXiv 0909.4061). The residues R are least squares over all taps. A real filter has poles in conjugate
pairs, of which the real part needs one. k is (D, K), u is (B, T, D), h is (B, D, M): B batch, T positions, D channels, M modes. Cost a
channel: of a fit K M (M + log K) in float64, of a step M, of T positions T (M + log C) in chunks of C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256  # positions that ``modal_scan`` takes at a time
RADIUS = 1 - 1e-6  # of the largest pole: inside the unit circle in float32 as well
SPARE, ITERATIONS = 8, 2  # vectors beyond those looked for, and products with H after the first
NOISE = 1e-12  # eigenvalues of H below this part of the largest say nothing of the filter
CUTOFF = 1e-13  # the same for the least squares in float64; in float32 its epsilon, so that rounded residues still cancel
MOST_MODES = 256
FIT_NUMBERS = 1 << 22  # in one table of a fit, which sets how many channels run at once


@dataclass(frozen=True, eq=False)
class Modes:
    """Filters as sums of exponentials, shared by all who decode with them. Made by ``fit_modes``."""

    poles: Tensor  # (D, M) complex
    residues: Tensor  # (D, M) complex
    first: Tensor  # (D,), tap 0
    error: Tensor  # (D,), |k - taps(K)| / |k| in the L2 norm

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(x.nbytes for x in (self.poles, self.residues, self.first, self.error))

    def taps(self, length: int) -> Tensor:
        """The first ``length`` taps, (D, length)."""
        tail = (self.residues.unsqueeze(-2) @ _powers(self.poles, length - 1)).squeeze(-2).real
        return torch.cat((self.first.unsqueeze(-1), tail), -1)


def fit_modes(k: Tensor, modes: int) -> Modes:
    """The filters ``k`` (D, K) as ``modes`` exponentials each, in k's dtype (float32 for half precision) and on its device.

    ``error`` says how well that went, channel by channel. The fit runs on the CPU. Raises ``ValueError`` without a tap, and for more than
    ``MOST_MODES`` modes, whose fit would take hours and cost more a step than the exact tiles.
    """
    if k.ndim != 2 or not k.shape[1] or not 1 <= modes <= MOST_MODES:
        raise ValueError(f"expected filters (D, K) with a tap and 1 to {MOST_MODES} modes, got {tuple(k.shape)} and {modes} modes")
    dtype = torch.promote_types(k.dtype, torch.float32)
    exact = k.detach().to("cpu", torch.float64)
    fits = [_fit(part, modes, dtype.to_complex()) for part in exact.split(max(1, FIT_NUMBERS // (k.shape[1] * 8 * modes)))]
    poles, residues, error = (torch.cat(parts).to(k.device) for parts in zip(*fits, strict=True))
    return Modes(poles, residues, k.detach()[:, 0].to(dtype), error.to(dtype))


def init_modal(modes: Modes, batch: int) -> Tensor:
    """h before the first position, (B, D, M)."""
    return modes.poles.new_zeros(batch, *modes.poles.shape)


def modal_step(u: Tensor, h: Tensor, modes: Modes) -> tuple[Tensor, Tensor]:
    """The next position, (B, D) -> (B, D) in u's dtype, and the h after it."""
    y = modes.first * u + (modes.residues * h).sum(-1).real
    return y.to(u.dtype), torch.addcmul(u.unsqueeze(-1).to(h.dtype), modes.poles, h)


def modal_scan(u: Tensor, h: Tensor, modes: Modes, lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """The next n positions at once, (B, n, D) -> (B, n, D) in u's dtype, and the h after them.

    Row b advances by ``lengths[b]`` (0 to n; default n); its outputs past that are meaningless and change nothing.
    """
    n, parts = u.shape[1], []
    counts = torch.tensor([n] * u.shape[0] if lengths is None else list(lengths), device=u.device)
    size = min(CHUNK, n)
    powers, spectrum = _powers(modes.poles, size + 1), torch.fft.rfft(modes.taps(size), n=2 * size) if size else modes.poles
    place = torch.arange(size, device=u.device)
    for start in range(0, n, CHUNK):
        left = (counts - start).clamp(0, size).unsqueeze(1)
        x = F.pad(u[:, start : start + size], (0, 0, 0, max(0, start + size - n))).to(modes.first.dtype)
        x = x.where((place < left).unsqueeze(-1), 0).mT
        inside = torch.fft.irfft(torch.fft.rfft(x, n=2 * size) * spectrum, n=2 * size)[..., :size]
        before = torch.einsum("bdm,dmt->bdt", h * modes.residues, powers[..., :size]).real
        parts.append((inside + before).mT)
        late = x.gather(2, ((place + left) % size).unsqueeze(1).expand_as(x))  # each row's last input comes last, zeros come first
        h = h * powers[..., left.squeeze(1)].movedim(-1, 0) + torch.einsum("bdt,dmt->bdm", late.to(h.dtype), powers[..., :size].flip(-1))
    return (torch.cat(parts, 1)[:, :n].to(u.dtype) if parts else torch.zeros_like(u)), h


def _powers(poles: Tensor, count: int) -> Tensor:
    """Powers 0 .. count - 1, (D, M) -> (D, M, count)."""
    exponent = torch.arange(count, dtype=poles.real.dtype, device=poles.device)
    return torch.polar(poles.abs().unsqueeze(-1) ** exponent, poles.angle().unsqueeze(-1) * exponent)


def _fit(k: Tensor, modes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Poles, residues and errors of some channels, for each the best of four tries. The taps alone bring back a sum of exponentials
    wherever it is cut off; followed by zeros they bring stable poles (Kung, 1978), much better ones for a filter that ends before it has
    died out. ``modes`` poles are right if all are real, twice as many if all come in pairs; of more than ``modes`` on or above the real
    axis, those that give most to the taps stay."""
    tail, scale = k[:, 1:], torch.linalg.vector_norm(k, dim=1)
    cutoff = max(CUTOFF, torch.finfo(dtype).eps)
    best = torch.zeros(len(k), modes, dtype=torch.complex128), torch.zeros(len(k), modes, dtype=torch.complex128), torch.ones_like(scale)
    for zeros, order in product((0, tail.shape[1]), (modes, 2 * modes)):
        poles = _poles(F.pad(tail, (0, zeros)), order)
        poles = F.pad(poles, (0, max(0, modes - poles.shape[1])))
        if poles.shape[1] > modes:
            parts = torch.linalg.vector_norm(_parts(poles, _residues(tail, poles, cutoff), tail.shape[1]), dim=-1)
            poles = poles.gather(1, parts.topk(modes, dim=1).indices)
        poles = poles.to(dtype).to(poles.dtype)  # residues for the poles as they are handed out
        residues = _residues(tail, poles, cutoff).to(dtype).to(poles.dtype)
        left = tail - _parts(poles, residues, tail.shape[1]).sum(1)
        error = torch.linalg.vector_norm(left, dim=1) / scale.where(scale > 0, 1)
        better = (error < best[2]).unsqueeze(1)
        best = poles.where(better, best[0]), residues.where(better, best[1]), torch.minimum(error, best[2])
    return best[0].to(dtype), best[1].to(dtype), best[2]


def _poles(tail: Tensor, order: int) -> Tensor:
    """The poles of each row's Hankel matrix, (D, n) -> (D, order) or fewer, zero in place of those below the real axis."""
    size = (tail.shape[1] + 1) // 2  # of the largest square matrix H[i, j] = tail[i + j]
    order = min(order, max(0, size - 1))
    if not order:
        return tail.new_zeros(tail.shape[0], 0, dtype=torch.complex128)
    length = 1 << (2 * size - 1).bit_length()
    spectrum = torch.fft.rfft(tail[:, : 2 * size - 1], n=length).unsqueeze(1)

    def hankel(x: Tensor) -> Tensor:
        return torch.fft.irfft(spectrum * torch.fft.rfft(x.mT, n=length).conj(), n=length)[..., :size].mT

    start = torch.randn(size, min(order + SPARE, size), dtype=tail.dtype, generator=torch.Generator().manual_seed(0))
    space = hankel(start.expand(tail.shape[0], -1, -1))
    for _ in range(ITERATIONS):
        space = hankel(torch.linalg.qr(space).Q)
    space = torch.linalg.qr(space).Q
    values, vectors = torch.linalg.eigh(space.mT @ hankel(space))
    sizes, leading = values.abs().topk(order, dim=-1)
    vectors = vectors.gather(2, leading.unsqueeze(1).expand(-1, vectors.shape[1], -1))
    space = space @ vectors.where((sizes > NOISE * sizes[:, :1]).unsqueeze(1), 0)
    poles = torch.linalg.eigvals(torch.linalg.pinv(space[:, :-1]) @ space[:, 1:])
    poles = poles * (RADIUS / poles.abs().clamp(min=RADIUS))
    return poles.where(poles.imag >= 0, 0)


def _residues(tail: Tensor, poles: Tensor, cutoff: float) -> Tensor:
    """Least squares of the taps (D, n) over the real and imaginary parts of the powers of ``poles`` (D, M) -> (D, M)."""
    powers = _powers(poles, tail.shape[1])
    basis = torch.cat((powers.real, -powers.imag), 1)
    norm = torch.linalg.vector_norm(basis, dim=-1, keepdim=True)
    norm = norm.where(norm > cutoff**0.5, torch.inf)  # a real pole has no imaginary part but rounding
    basis = basis / norm
    inverse = torch.linalg.pinv(basis @ basis.mT, rtol=cutoff, hermitian=True)
    weights = torch.zeros_like(norm)
    for _ in range(2):  # the second pass takes back what the squared condition number lost
        weights = weights + inverse @ (basis @ (tail.unsqueeze(-1) - basis.mT @ weights))
    weights = (weights / norm).squeeze(-1)
    return torch.complex(*weights.chunk(2, 1))


def _parts(poles: Tensor, residues: Tensor, count: int) -> Tensor:
    """What each mode gives to the taps from tap 1 on, (D, M, count)."""
    return (residues.unsqueeze(-1) * _powers(poles, count)).real
