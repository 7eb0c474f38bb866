"""What a long convolution accepts; anything else is a ``ValueError`` in one sentence. Shapes as in ``ops/long_conv.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_filters(u: Tensor | None, k: Tensor, k_reverse: Tensor | None) -> None:
    """Filters in float32 or better, one for each channel of u and as many on both sides."""
    for name, filter_ in (("k", k), ("k_reverse", k_reverse)):
        if filter_ is None:
            continue
        if filter_.dtype not in FLOATS:
            raise ValueError(f"{name} must be of real floating-point numbers, got {filter_.dtype}")
        if filter_.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"{name} is in {filter_.dtype}, in which a transform loses its digits: keep filters in float32, u may be half")
        channels = k.shape[0] if u is None or u.ndim != 3 else u.shape[1]
        if filter_.ndim != 2 or filter_.shape[0] != channels or (u is not None and u.ndim != 3):
            shape = None if u is None else tuple(u.shape)
            raise ValueError(f"u must be (B, D, L) and {name} (D, K), got {shape} and {tuple(filter_.shape)}: one filter a channel")


def check_inputs(u: Tensor, channels: int, skip: Tensor | None, gates: Sequence[Tensor | None]) -> None:
    """Inputs of real numbers with ``channels`` channels, a skip term for each, and gates of the inputs' shape."""
    if u.ndim != 3 or u.shape[1] != channels or not u.is_floating_point():
        raise ValueError(f"u must be (B, {channels}, L), of floating-point numbers, got {tuple(u.shape)} of {u.dtype}")
    if skip is not None and skip.shape != (channels,):
        raise ValueError(f"skip must be ({channels},), one number a channel, got {tuple(skip.shape)}")
    for gate in gates:
        if gate is not None and gate.shape != u.shape:
            raise ValueError(f"a gate must have the shape of u, {tuple(u.shape)}, got {tuple(gate.shape)}: expand it")


def check_choices(method: str, known: Sequence[str], reverse_lag: int, channels: int | None, block: int | None) -> None:
    """A method and a reverse lag that exist, and pieces that hold something; blocks go with the fft method."""
    if method not in known or reverse_lag not in (0, 1):
        raise ValueError(f"method must be one of {', '.join(known)} and reverse_lag 0 or 1, got {method!r} and {reverse_lag}")
    for name, size in (("channels", channels), ("block", block)):
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if block is not None and method not in ("auto", "fft"):
        raise ValueError(f"block cuts inputs for the fft method, got method={method!r}: leave one of them out")
    if channels is not None and method in ("dft", "direct"):
        raise ValueError(f"channels cuts inputs for the fft method, got method={method!r}: leave one of them out")


def check_operand(operand: torch.dtype | None, by_dft: bool) -> None:
    """A type of real floating-point numbers, for the dft method alone."""
    if operand is not None and not by_dft:
        raise ValueError(f"operand={operand} is for the dft method alone: set method='dft', or leave it out")
    if operand is not None and operand not in FLOATS:
        raise ValueError(f"operand must be float16, bfloat16, float32 or float64 of torch, got {operand}: take one of these")
