"""Causal linear attention: softmax's kernel is replaced by a product of feature maps (Katharopoulos et al., arXiv 2006.16236).

    o[t] = phi(q[t])^T S[t] / phi(q[t])^T z[t],   S[t] = sum of phi(k[s]) v[s]^T,   z[t] = sum of phi(k[s]),  both over s <= t,

with phi(x) = elu(x) + 1. q and k are (B, T, H, d), v is (B, T, H, e): B batch, T positions, H heads. S is (B, H, d, e), z (B, H, d):
a summary of the whole past. With rotary positions (RoFormer, arXiv 2104.09864, section 3.3) the numerator rotates phi(q) and
phi(k) by their positions and the denominator does not, so S holds rotated keys and z plain ones.
Cost in T: T * (C + d) in chunks of C positions. All sums run in float32 or better, whatever the autocast.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32, full_precision
from subquad.ops.rotary import Rotation, rotate

CHUNK = 64
# Inputs of phi are held between these, so that neither a product of two features nor the square of its inverse leaves float32.
LOWEST, HIGHEST = -20.0, 1e6
SMALLEST = 1e-18  # below any sum of two features' products; replaces the sum where nothing is seen

Sums = tuple[Tensor, Tensor]  # S and z


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, rotation: Rotation | None = None, mask: Tensor | None = None, chunk: int = CHUNK
) -> Tensor:
    """Linear attention of a whole sequence in chunks of at most ``chunk`` positions, -> (B, T, H, e).

    ``mask`` (B, T) is True at real positions; others are not seen and get zeros. Inputs of any size give finite outputs, values up to
    1e15.
    """
    return _chunked(q, k, v, None, rotation, mask, chunk)[0] if q.shape[1] else torch.zeros_like(v)


def continue_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, sums: Sums, *, rotation: Rotation | None = None, mask: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Sums]:
    """``linear_attention`` of the positions after those in ``sums``; returns the sums with these positions as well, as new tensors."""
    if q.shape[1] <= 1:
        return linear_attention_recurrent(q, k, v, sums, rotation=rotation, mask=mask)
    out, total = _chunked(q, k, v, sums, rotation, mask, chunk)
    assert total is not None
    return out, total


def feature_map(x: Tensor) -> Tensor:
    """elu(x) + 1, computed as exp(x) below zero: in float32 elu(x) + 1 itself is 0 from x = -17 on. x is clamped to -20 .. 10^6."""
    return cast(Tensor, _FeatureMap.apply(x))


class _FeatureMap(torch.autograd.Function):
    """The derivative is min(phi, 1). Autograd's own formula would take a quarter of the time of the whole attention on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        bounded = x.clamp(LOWEST, HIGHEST)
        phi = bounded.clamp(max=0).exp_().add_(bounded.clamp_(min=0))
        ctx.save_for_backward(phi)
        return phi

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (phi,) = ctx.saved_tensors
        return gradients[0] * phi.clamp(max=1)


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, before: Sums | None, rotation: Rotation | None, mask: Tensor | None, chunk: int
) -> tuple[Tensor, Sums | None]:
    """Inside a chunk the quadratic form, between chunks the sums. Returns new sums only where there are sums to continue from."""
    length, dtype = q.shape[1], at_least_float32(q.dtype)
    count = -(-length // chunk)
    size = -(-length // count)
    with full_precision(q.device):
        queries, keys, values = (_chunks(x.to(dtype), count, size) for x in (q, k, v))  # (B, chunks, H, C, d)
        queries, keys = feature_map(queries), feature_map(keys)
        if mask is not None or count * size > length:
            real = q.new_ones(1, length, dtype=dtype) if mask is None else mask.to(dtype)
            keys = keys * _chunks(real[..., None, None], count, size)
        rotated_queries, rotated_keys = queries, keys
        if rotation is not None:
            tables = [_chunks(table.to(dtype).unsqueeze(-2), count, size) for table in rotation]
            rotated_queries, rotated_keys = (rotate(x, *tables) for x in (queries, keys))
        past = torch.ones(size, size, dtype=dtype, device=q.device).tril()
        top = (rotated_queries @ rotated_keys.mT).mul_(past) @ values  # (B, chunks, H, C, e)
        below = past.expand(*keys.shape[:3], size, size) @ keys  # a product with ones is faster here than a running sum
        after: Sums | None = None
        if count > 1 or before is not None:
            products = _running(rotated_keys.mT @ values, None if before is None else before[0])
            plain = _running(keys.sum(-2), None if before is None else before[1])
            top, below = top + rotated_queries @ products[:, :-1], below + plain[:, :-1].unsqueeze(-2)
            after = None if before is None else (products[:, -1], plain[:, -1])
        out = top * (queries * below).sum(-1, keepdim=True).clamp(min=SMALLEST).reciprocal()
    out = out.transpose(2, 3).flatten(1, 2)[:, :length].to(v.dtype)
    return (out if mask is None else out * mask[..., None, None]), after


def _chunks(x: Tensor, count: int, size: int) -> Tensor:
    """(..., T, H, d) -> (..., count, H, size, d), contiguous, filled up with zeros at the end."""
    fill = count * size - x.shape[-3]
    x = F.pad(x, (0, 0, 0, 0, 0, fill)) if fill else x
    return x.unflatten(-3, (count, size)).transpose(-3, -2).contiguous()


def _running(pieces: Tensor, start: Tensor | None) -> Tensor:
    """(B, N, ...) -> (B, N + 1, ...): the sums before each piece, and after the last."""
    first = torch.zeros_like(pieces[:, :1]) if start is None else start.unsqueeze(1)
    return torch.cat((first, pieces), 1).cumsum(1)


def linear_attention_recurrent(
    q: Tensor, k: Tensor, v: Tensor, sums: Sums | None = None, *, rotation: Rotation | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Sums]:
    """Twin of ``continue_linear_attention``, one position at a time; from nothing where ``sums`` are left out."""
    dtype = at_least_float32(q.dtype)
    queries, keys, values = feature_map(q.to(dtype)), feature_map(k.to(dtype)), v.to(dtype)
    if mask is not None:
        keys = keys * mask[..., None, None]
    rotated_queries, rotated_keys = queries, keys
    if rotation is not None:
        tables = [table.unsqueeze(-2) for table in rotation]
        rotated_queries, rotated_keys = (rotate(x, *tables) for x in (queries, keys))
    products, plain = sums or (values.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[-1]), values.new_zeros(*k.shape[:1], *k.shape[2:]))
    rows = []
    with full_precision(q.device):
        for t in range(q.shape[1]):
            products = products + rotated_keys[:, t].unsqueeze(-1) * values[:, t].unsqueeze(-2)
            plain = plain + keys[:, t]
            top = (rotated_queries[:, t].unsqueeze(-2) @ products).squeeze(-2)
            rows.append(top / (queries[:, t] * plain).sum(-1, keepdim=True).clamp(min=SMALLEST))
    out = torch.stack(rows, 1).to(v.dtype) if rows else torch.zeros_like(v)
    return (out if mask is None else out * mask[..., None, None]), (products, plain)


def linear_attention_direct(q: Tensor, k: Tensor, v: Tensor, *, rotation: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
    """Slow twin of ``linear_attention``: every weight of every pair of positions, cost T^2."""
    queries, keys = F.elu(q) + 1, F.elu(k) + 1
    seen = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        seen = seen & mask[:, None, None, :] & mask[:, None, :, None]
    weights = torch.einsum("bthd,bshd->bhts", queries, keys).where(seen, 0)
    total = weights.sum(-1, keepdim=True)
    if rotation is not None:
        rotated_queries, rotated_keys = (rotate(x, rotation[0].unsqueeze(-2), rotation[1].unsqueeze(-2)) for x in (queries, keys))
        weights = torch.einsum("bthd,bshd->bhts", rotated_queries, rotated_keys).where(seen, 0)
    return torch.einsum("bhts,bshe->bthe", weights / total.where(total > 0, 1), v)
