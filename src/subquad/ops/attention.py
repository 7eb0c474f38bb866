"""Softmax attention, causal over everything before, over a window or over segments, or two-sided over everything.

q, k, v are (B, T, H, d). Position t sees positions s <= t that also satisfy
  * window w:    s > t - w,
  * segment P:   s >= P * floor(t / P) - r, its own segment and the last r (``lookback``) positions of the one before
    (cross-patch attention, MEGABYTE section 2.3.2).
Cost in T: T^2, T * w, or T * (P + r).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32

# Below this block length the fused kernel is the slower one on a CPU, by 2 to 7 times in a bfloat16 backward.
SHORT_BLOCK = 64
MOST_ROWS = 65_535  # of a batch times heads that one call of a CUDA kernel takes; the patches of MEGABYTE are rows, and soon more
MOST_POSITIONS = 65_536  # that causal attention in float32 is right for on a GPU


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    segment: int | None = None,
    lookback: int = 0,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of a whole sequence, (B, T, H, d) -> (B, T, H, d).

    ``mask`` (B, T) is True at real positions; others are not seen. A position that sees nothing gets zeros.
    """
    length = q.shape[1]
    if mask is not None:
        seen = visible(length, window, segment, lookback, q.device) & mask[:, None, None, :]  # (B, 1, T, T)
        blind = ~seen.any(-1, keepdim=True)  # softmax over nothing would be NaN, so these see everything, and then count for nothing
        return attend(q, k, v, seen | blind, dropout).masked_fill(blind.transpose(1, 2), 0.0)
    if segment is not None and (segment < length or lookback):
        return _blocks(q, k, v, segment, min(lookback, segment), None, dropout)
    if window is not None and window < length:
        return _blocks(q, k, v, window, window - 1, window, dropout)
    if _short(length, q):
        return attend(q, k, v, visible(length, None, None, 0, q.device), dropout)
    check_length(length, q.dtype, q.device.type)
    return _fused(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), None, dropout, causal=True).transpose(1, 2)


def two_sided_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attention in which every position sees all, (B, T, H, d) -> (B, T, H, d); with ``mask`` (B, T) only those where it is True.

    A row without any such position gets what it would without a mask.
    """
    seen = None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None, :]
    return attend(q, k, v, seen, dropout)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention under an explicit mask: q (B, T, H, d), k and v (B, S, H, d), seen broadcast to (B, H, T, S), True where visible."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.shape[2] > 1 and _short(q.shape[2], q):
        return _as_two_products(q, k, v, seen, dropout).transpose(1, 2)
    return _fused(q, k, v, seen, dropout).transpose(1, 2)


def _fused(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, dropout: float, causal: bool = False) -> Tensor:
    """PyTorch's kernels: q (B, H, T, d), k and v (B, H, S, d), seen broadcast to (B, H, T, S); as many rows at a time as they take."""
    batch, rows = q.shape[0], max(1, MOST_ROWS // q.shape[1])
    if batch <= rows:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=causal)
    masks = seen.split(rows) if seen is not None and seen.dim() == 4 and seen.shape[0] == batch else [seen] * -(-batch // rows)
    pieces = zip(q.split(rows), k.split(rows), v.split(rows), masks, strict=True)
    return torch.cat([F.scaled_dot_product_attention(*piece, dropout_p=dropout, is_causal=causal) for piece in pieces])


def check_length(length: int, dtype: torch.dtype, device: str) -> None:
    """Raises ``ValueError`` for causal attention that a GPU's kernel computes wrongly."""
    if device == "cuda" and dtype == torch.float32 and length > MOST_POSITIONS:
        remedy = "use dtype=bfloat16, a window, or a shorter context"
        raise ValueError(
            f"on a GPU causal attention in float32 is right for at most {MOST_POSITIONS:,} positions, got {length:,}: {remedy}"
        )


def _short(block: int, q: Tensor) -> bool:
    """Whether blocks of that many queries are multiplied out: short ones on a CPU."""
    return block <= SHORT_BLOCK and q.device.type == "cpu"


def _as_two_products(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, dropout: float) -> Tensor:
    """Attention as two matrix products: q (..., T, d), k and v (..., S, d), seen broadcast to (..., T, S)."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)  # (..., T, S)
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    weights = torch.softmax(scores, -1, dtype=at_least_float32(scores.dtype))
    weights = F.dropout(weights, dropout) if dropout else weights
    return weights.to(v.dtype) @ v


def visible(length: int, window: int | None, segment: int | None, lookback: int, device: torch.device) -> Tensor:
    """The (T, T) pattern itself: entry (t, s) is True where position t sees position s."""
    time = torch.arange(length, device=device)
    return sees(time.unsqueeze(1), time, window, segment, lookback)


def sees(query: Tensor, key: Tensor, window: int | None, segment: int | None, lookback: int) -> Tensor:
    """Whether the query position sees the key position, elementwise over broadcast integer tensors."""
    seen = (key <= query) & (key >= 0)
    if window is not None:
        seen = seen & (key > query - window)
    if segment is not None:
        seen = seen & (key >= query // segment * segment - lookback)
    return seen


def _blocks(q: Tensor, k: Tensor, v: Tensor, block: int, back: int, window: int | None, dropout: float) -> Tensor:
    """Block i of the queries against block i of the keys and the last ``back`` keys of block i - 1.

    The first block has no predecessor: where blocks are long it runs separately, so that the others share one mask.
    """
    batch, length, heads, dim = q.shape
    count = -(-length // block)
    if count * block != length:
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, count * block - length)) for x in (q, k, v))
    q, k, v = (x.reshape(batch, count, block, heads, dim) for x in (q, k, v))  # each (B, blocks, block, H, d)
    if back == 0:
        out = causal_attention(*(x.reshape(batch * count, block, heads, dim) for x in (q, k, v)), dropout=dropout)
        return out.reshape(batch, count * block, heads, dim)[:, :length]
    if _short(block, q):
        out = _short_blocks(q, k, v, back, window, dropout)
        return out.reshape(batch, count * block, heads, dim)[:, :length]
    first = causal_attention(q[:, 0], k[:, 0], v[:, 0], dropout=dropout)  # (B, block, H, d)
    if count == 1:
        return first[:, :length]
    time = torch.arange(-back, block, device=q.device)
    seen = sees(time[back:].unsqueeze(1) + block, time + block, window, block if window is None else None, back)  # (block, back + block)
    keys, values = (
        torch.cat((x[:, :-1, block - back :], x[:, 1:]), 2).flatten(0, 1) for x in (k, v)
    )  # (B (blocks - 1), back + block, H, d)
    rest = attend(q[:, 1:].flatten(0, 1), keys, values, seen, dropout)
    out = torch.cat((first.unsqueeze(1), rest.unflatten(0, (batch, count - 1))), 1)
    return out.reshape(batch, count * block, heads, dim)[:, :length]


def _short_blocks(q: Tensor, k: Tensor, v: Tensor, back: int, window: int | None, dropout: float) -> Tensor:
    """All blocks at once, (B, blocks, block, H, d), with a mask for each."""
    count, block = q.shape[1:3]
    keys, values = (
        torch.cat((F.pad(x[:, :-1, block - back :], (0, 0, 0, 0, 0, 0, 1, 0)), x), 2) for x in (k, v)
    )  # (B, blocks, back + block, H, d)
    first = torch.arange(count, device=q.device)[:, None, None, None] * block
    time = torch.arange(-back, block, device=q.device)
    seen = sees(first + time[back:].unsqueeze(1), first + time, window, block if window is None else None, back)  # (blocks, 1, block, ...)
    return _as_two_products(q.transpose(2, 3), keys.transpose(2, 3), values.transpose(2, 3), seen, dropout).transpose(2, 3)


def causal_attention_direct(
    q: Tensor, k: Tensor, v: Tensor, *, window: int | None = None, segment: int | None = None, lookback: int = 0
) -> Tensor:
    """Slow twin of ``causal_attention``: one position and one head at a time."""
    rows = []
    for t in range(q.shape[1]):
        start = max(0, t - window + 1) if window is not None else 0
        if segment is not None:
            start = max(start, t // segment * segment - lookback)
        scores = torch.einsum("bhd,bshd->bhs", q[:, t], k[:, start : t + 1]) / math.sqrt(q.shape[-1])
        rows.append(torch.einsum("bhs,bshd->bhd", scores.softmax(-1), v[:, start : t + 1]))
    return torch.stack(rows, 1)
