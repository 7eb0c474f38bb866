"""A causal long convolution one position at a time, exactly, where each input may depend on the outputs before it.

    y[t] = sum over s <= t of k[t - s] u[s].

Every pair (s, t) belongs to one tile: inside a base tile of b positions each input is added to the outputs it reaches as it comes;
above, whenever the count t' of inputs is a multiple of b and U is the largest power of two in it, the last U inputs are convolved with
k[0 : 2U] by an FFT of length 2U and added to what is pending for the next U outputs (relaxed multiplication: van der Hoeven, "Relax,
but don't be too lazy", 2002; as inference of long convolutions: Oncescu et al., "Flash Inference", arXiv 2410.12982). Many positions at
once are cut into blocks of 2^q positions that begin at multiples of 2^q: inside a block a plain causal convolution, after it its tile.
u is (B, T, D), k is (D, K) with one filter a channel: B batch, T positions, D channels. Cost of T positions: b T + T log^2 T, instead
of T^2; tiles grow no longer than the filter, so for K < T it is b T + T log^2 K. All sums run in the filter's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.ragged import together
from subquad.state import State

BASE = 64  # positions of a base tile: the fastest of 16, 32, 64 and 128 on one core, at 256 channels


@dataclass(frozen=True, eq=False)
class OnlineFilter:
    """What decoding reads of a filter and never changes, shared by a state and its clones. Made by ``of``."""

    max_len: int
    tile: int  # b
    taps: Tensor  # (D, K), K at most max_len
    base: Tensor  # (b, D), the first taps as inputs meet them inside a base tile; zeros beyond the last tap
    spectra: tuple[Tensor, ...]  # of k[0 : 2U], (D, U + 1), for U = b, 2b, 4b ...

    @classmethod
    def of(cls, k: Tensor, max_len: int) -> OnlineFilter:
        """The filters ``k`` (D, K), any K > 0, made ready for ``max_len`` positions. Raises ``ValueError`` for a k in half precision."""
        if k.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"an online convolution needs a filter in float32 or float64, got {k.dtype}: convert it")
        if k.ndim != 2 or not k.shape[1] or max_len < 1:
            raise ValueError(
                f"expected filters (D, K) with K of at least 1 and max_len of at least 1, got {tuple(k.shape)} and max_len {max_len}"
            )
        taps = k.detach()[:, :max_len].contiguous()
        tile = min(BASE, 1 << (max_len - 1).bit_length())
        base = F.pad(taps[:, :tile], (0, max(0, tile - taps.shape[1]))).t().contiguous()
        spectra, size, largest = [], tile, 0
        while size < max_len and largest < taps.shape[1] - 1:  # no tap reaches a larger tile
            spectra.append(torch.fft.rfft(taps[:, : 2 * size], n=2 * size))
            size, largest = 2 * size, size
        return cls(max_len, tile, taps, base, tuple(spectra))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(x.nbytes for x in (self.taps, self.base, *self.spectra))


@dataclass
class OnlineConvState(State):
    """Inputs taken and sums pending, L = max_len rounded up to whole base tiles. A position inside the open base tile touches only that
    tile's two small buffers, contiguous in channels; the long ones are contiguous in time."""

    inputs: Tensor  # (B, D, L), up to the open base tile
    pending: Tensor  # (B, D, L), what the finished tiles give to the positions from the open base tile on
    recent: Tensor  # (B, b, D), inputs of the open base tile
    open: Tensor  # (B, b, D), sums of the open base tile
    lengths: list[int]
    filter: OnlineFilter


def init_online_conv(filter: OnlineFilter, batch: int) -> OnlineConvState:
    """The state before the first position of ``batch`` sequences."""
    length = -(-filter.max_len // filter.tile) * filter.tile
    inputs, recent = filter.taps.new_zeros(batch, filter.taps.shape[0], length), filter.base.new_zeros(batch, *filter.base.shape)
    return OnlineConvState(inputs, torch.zeros_like(inputs), recent, torch.zeros_like(recent), [0] * batch, filter)


def prefill_online_conv(u: Tensor, state: OnlineConvState, lengths: Sequence[int] | None = None) -> Tensor:
    """The next n positions at once, (B, n, D) -> (B, n, D), in u's dtype.

    Row b advances by ``lengths[b]`` (0 to n; default n); its outputs past that are meaningless and change nothing. Adjacent rows that
    are at the same offset run together. Raises ``ValueError`` when a row would outgrow the state.
    """
    n, starts = u.shape[1], state.lengths
    counts = [n] * len(starts) if lengths is None else list(lengths)
    ends = [start + count for start, count in zip(starts, counts, strict=True)]
    room, tile = state.filter.max_len, state.filter.tile
    if max(ends, default=0) > room:
        raise ValueError(f"the decoding state holds {room} positions and is full: give init_state a larger max_len")
    if n == 1 and set(counts) == {1} and len(set(starts)) == 1 and ends[0] % tile:  # a step inside a base tile: most of decoding
        state.lengths = ends
        return _push(u[:, 0], state, starts[0] % tile).unsqueeze(1)
    y = torch.zeros_like(u)
    for rows, start, count in together(starts, counts):
        if count:
            y[rows, :count] = _advance(u[rows, :count], _view(state, rows), start)
    state.lengths = ends
    return y


def online_conv_direct(u: Tensor, k: Tensor) -> Tensor:
    """Slow twin: every output as a dot product with all inputs so far, one position at a time. u (B, T, D), k (D, K) -> (B, T, D)."""
    inputs, backward, size = u.transpose(1, 2).contiguous(), k.flip(1), k.shape[1]
    rows = [
        torch.einsum("bdj,dj->bd", inputs[..., max(0, end - size) : end], backward[:, max(0, size - end) :])
        for end in range(1, u.shape[1] + 1)
    ]
    return torch.stack(rows, 1) if rows else torch.zeros_like(u)


def _view(state: OnlineConvState, rows: slice) -> OnlineConvState:
    """Some rows of a state, in the same memory."""
    inputs, pending, recent, open_sums = (x[rows] for x in (state.inputs, state.pending, state.recent, state.open))
    return OnlineConvState(inputs, pending, recent, open_sums, state.lengths[rows], state.filter)


def _advance(u: Tensor, state: OnlineConvState, start: int) -> Tensor:
    """All rows of a state by n > 0 positions from ``start`` on, (B, n, D) -> (B, n, D)."""
    tile, n = state.filter.tile, u.shape[1]
    parts, done = [], 0
    while done < n:
        t = start + done
        place, remaining = t % tile, n - done
        if place or remaining < tile:
            size = min(tile - place, remaining)
            steps = u[:, done : done + size].unbind(1)
            parts.append(torch.stack([_push(x, state, place + i) for i, x in enumerate(steps)], 1))
            if place + size == tile:
                state.inputs[..., t - place : t + size] = state.recent.mT
        else:
            size = 1 << (remaining.bit_length() - 1)
            size = min(size, t & -t) if t else size
            parts.append(_block(u[:, done : done + size].mT, state, t).mT)
        done += size
        if place + size >= tile and start + done < state.filter.max_len:
            _finish(state, start + done)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _push(u: Tensor, state: OnlineConvState, place: int) -> Tensor:
    """One position of the open base tile, (B, D) -> (B, D): its input goes to all outputs of the tile that it reaches."""
    state.recent[:, place] = u
    state.open[:, place:].addcmul_(u.unsqueeze(1), state.filter.base[: state.filter.tile - place])
    return state.open[:, place].to(u.dtype, copy=True)


def _block(u: Tensor, state: OnlineConvState, t: int) -> Tensor:
    """A block of whole base tiles, (B, D, size) -> (B, D, size)."""
    size = u.shape[2]
    inputs = state.inputs[..., t : t + size].copy_(u)
    sums = torch.fft.rfft(inputs, n=2 * size).mul_(torch.fft.rfft(state.filter.taps[:, :size], n=2 * size))
    return torch.fft.irfft(sums, n=2 * size)[..., :size].add_(state.pending[..., t : t + size]).to(u.dtype)


def _finish(state: OnlineConvState, end: int) -> None:
    """The tile whose last input is just before ``end``; the next base tile is then open."""
    tile, spectra = state.filter.tile, state.filter.spectra
    if spectra:
        level = min((end & -end).bit_length() - tile.bit_length(), len(spectra) - 1)
        size = tile << level
        sums = torch.fft.rfft(state.inputs[..., end - size : end], n=2 * size).mul_(spectra[level])
        pending = state.pending[..., end : end + size]  # (B, D, up to U)
        pending += torch.fft.irfft(sums, n=2 * size)[..., size : size + pending.shape[2]]
    state.open.copy_(state.pending[..., end : end + tile].mT)
