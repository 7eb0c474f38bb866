"""Short depthwise causal convolutions by shifted sums: one pass over the input for each tap.

    y[t] = bias + sum over j < K of k[j] u[t - j],  zeros before the start

Shapes: u (B, ..., L), k (..., K), bias (...); B batch, L positions, and channels of any shape between. Cost in L: L K, and exact for any K;
it beats a transform while K is below about twenty. PyTorch's grouped convolution does the same sums several times slower on a CPU.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.precision import full_precision


def short_conv(u: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """See the module's docstring; -> (B, ..., L)."""
    return cast(Tensor, _ShortConv.apply(u, k, bias))


def short_conv_direct(u: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Slow twin of ``short_conv``: PyTorch's convolution, channel by channel."""
    padded = F.pad(u, (k.shape[1] - 1, 0))
    return F.conv1d(padded, k.flip(1).unsqueeze(1).to(u.dtype), None if bias is None else bias.to(u.dtype), groups=k.shape[0])


def channel_dots(x: Tensor, y: Tensor) -> Tensor:
    """The sum of x y over rows and positions, (B, ..., L) twice -> (...); products are summed as they are made, not stored."""
    with full_precision(x.device):
        return torch.matmul(x.unsqueeze(-2), y.unsqueeze(-1)).sum(0)[..., 0, 0]


class _ShortConv(torch.autograd.Function):
    """Autograd's own rule for the shifted sums would pad a gradient for every tap."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(u, k)
        taps = k.to(u.dtype).unsqueeze(-1)
        y = u * taps[..., 0, :] if bias is None else torch.addcmul(bias.to(u.dtype).unsqueeze(-1), u, taps[..., 0, :])
        for j in range(1, min(k.shape[-1], u.shape[-1])):
            y[..., j:].addcmul_(u[..., :-j], taps[..., j, :])
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        u, k = ctx.saved_tensors
        gradient = gradients[0]
        du = dk = dbias = None
        if ctx.needs_input_grad[0]:
            taps = k.to(gradient.dtype).unsqueeze(-1)
            du = gradient * taps[..., 0, :]
            for j in range(1, min(k.shape[-1], u.shape[-1])):
                du[..., :-j].addcmul_(gradient[..., j:], taps[..., j, :])
        if ctx.needs_input_grad[1]:
            dk = torch.zeros_like(k)
            for j in range(min(k.shape[-1], u.shape[-1])):
                dk[..., j] = channel_dots(gradient[..., j:], u[..., : u.shape[-1] - j])
        if ctx.needs_input_grad[2]:
            dbias = gradient.sum((0, -1)).to(k.dtype)
        return du, dk, dbias
