"""Short depthwise causal convolutions by shifted sums: one pass over the input for each tap.

    y[t] = bias + sum over j < K of k[j] u[t - j],  zeros before the start

Shapes: u (B, ..., L), k (..., K), bias (...); B batch, L positions, and channels of any shape between. Cost in L: L K, and exact for any K;
it is faster than a transform for K below about twenty. PyTorch's grouped convolution does the same sums several times slower on a CPU.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.autocast import at_least_float32


def short_conv(u: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """See the module's docstring; -> (B, ..., L)."""
    return cast(Tensor, _ShortConv.apply(u, k, bias))


def short_conv_direct(u: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Slow twin of ``short_conv``: PyTorch's convolution, channel by channel."""
    padded = F.pad(u, (k.shape[1] - 1, 0))
    return F.conv1d(padded, k.flip(1).unsqueeze(1).to(u.dtype), None if bias is None else bias.to(u.dtype), groups=k.shape[0])


def channel_dots(x: Tensor, y: Tensor) -> Tensor:
    """The sum of x y over rows and positions, (B, ..., L) twice -> (...), in float32 or more. Far faster than ``bmm`` for few channels."""
    dtype = at_least_float32(x.dtype)
    return (x.to(dtype) * y).sum((0, -1))


def short_conv_into(y: Tensor, u: Tensor, k: Tensor, bias: Tensor | None) -> None:
    """``short_conv`` into y, all of one type, outside autograd."""
    taps = k.unsqueeze(-1)
    if bias is None:
        torch.mul(u, taps[..., 0, :], out=y)
    else:
        torch.addcmul(bias.unsqueeze(-1), u, taps[..., 0, :], out=y)
    for j in range(1, min(k.shape[-1], u.shape[-1])):
        y[..., j:].addcmul_(u[..., :-j], taps[..., j, :])


def short_conv_gradients(gradient: Tensor, u: Tensor, k: Tensor, du: Tensor | None, dk: Tensor | None, dbias: Tensor | None) -> None:
    """The gradients of ``short_conv``, into those that are given; ``du`` may be of another type."""
    if du is not None:
        taps = k.unsqueeze(-1)
        total = torch.mul(gradient, taps[..., 0, :], out=du if du.dtype == gradient.dtype else None)
        for j in range(1, min(k.shape[-1], u.shape[-1])):
            total[..., :-j].addcmul_(gradient[..., j:], taps[..., j, :])
        if total is not du:
            du.copy_(total)
    if dk is not None:
        dk.zero_()
        for j in range(min(k.shape[-1], u.shape[-1])):
            dk[..., j] = channel_dots(gradient[..., j:], u[..., : u.shape[-1] - j])
    if dbias is not None:
        dbias.copy_(gradient.sum((0, -1)))


class _ShortConv(torch.autograd.Function):
    """Autograd's own rule for the shifted sums would pad a gradient for every tap."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(u, k)
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        short_conv_into(y, u, k.to(u.dtype), None if bias is None else bias.to(u.dtype))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        u, k = ctx.saved_tensors
        needs_u, needs_k, needs_bias = ctx.needs_input_grad
        du = torch.empty_like(gradients[0], memory_format=torch.contiguous_format) if needs_u else None
        dk = torch.empty_like(k) if needs_k else None
        dbias = k.new_empty(k.shape[:-1]) if needs_bias else None
        short_conv_gradients(gradients[0], u, k.to(gradients[0].dtype), du, dk, dbias)
        return du, dk, dbias
