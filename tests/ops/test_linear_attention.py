"""Linear attention in chunks against its two slow twins, in values and gradients, and what its sums promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subquad.ops.linear_attention import (
    CHUNK,
    Sums,
    continue_linear_attention,
    feature_map,
    linear_attention,
    linear_attention_direct,
    linear_attention_recurrent,
)
from subquad.ops.rotary import Rotation, rotary_table

ROWS, HEADS, DIM, VALUES = 2, 3, 4, 5


def _inputs(length: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k = (torch.randn(ROWS, length, HEADS, DIM, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return q, k, torch.randn(ROWS, length, HEADS, VALUES, dtype=torch.float64, requires_grad=True)


def _rotation(start: int, end: int) -> Rotation:
    return rotary_table(torch.arange(start, end), DIM, 10_000.0, torch.float64)


def _nothing() -> Sums:
    zeros = torch.zeros(ROWS, HEADS, DIM, VALUES, dtype=torch.float64)
    return zeros, zeros[..., 0]


def _close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize(("length", "chunk"), [(0, 4), (1, 4), (3, 4), (4, 4), (5, 4), (23, 4), (23, 1), (8, 100), (CHUNK + 1, CHUNK)])
def test_the_three_forms_agree(length: int, chunk: int, rotary: bool) -> None:
    inputs = _inputs(length)
    rotation = _rotation(0, length) if rotary else None
    direct = linear_attention_direct(*inputs, rotation=rotation)
    forms = [
        linear_attention(*inputs, rotation=rotation, chunk=chunk),
        continue_linear_attention(*inputs, _nothing(), rotation=rotation, chunk=chunk)[0],
        linear_attention_recurrent(*inputs, rotation=rotation)[0],
    ]
    weight = torch.randn_like(direct)
    for form in forms:
        _close(form, direct)
        if length:
            for one, other in zip(
                *(torch.autograd.grad((y * weight).sum(), inputs, retain_graph=True) for y in (form, direct)), strict=True
            ):
                _close(one, other)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("split", [0, 1, 4, 6, 22, 23])
def test_sums_continue_where_they_stand(split: int, rotary: bool) -> None:
    q, k, v = _inputs(23)
    whole = linear_attention(q, k, v, rotation=_rotation(0, 23) if rotary else None, chunk=4)
    sums, parts = _nothing(), []
    for start, end in ((0, split), (split, 23)):
        rows = slice(start, end)
        y, sums = continue_linear_attention(
            q[:, rows], k[:, rows], v[:, rows], sums, rotation=_rotation(start, end) if rotary else None, chunk=4
        )
        parts.append(y)
    _close(torch.cat(parts, 1), whole)
    every = linear_attention_recurrent(q, k, v, rotation=_rotation(0, 23) if rotary else None)[1]
    for one, other in zip(sums, every, strict=True):
        _close(one, other)
    gradients = (torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (torch.cat(parts, 1), whole))
    for one, other in zip(*gradients, strict=True):
        _close(one, other)


def test_rows_may_stand_at_positions_of_their_own() -> None:
    q, k, v = _inputs(9)
    positions = torch.arange(9) + torch.tensor([[0], [31]])
    both = linear_attention(q, k, v, rotation=rotary_table(positions, DIM, 10_000.0, torch.float64), chunk=4)
    for row in range(ROWS):
        alone = rotary_table(positions[row], DIM, 10_000.0, torch.float64)
        _close(both[row : row + 1], linear_attention(*(x[row : row + 1] for x in (q, k, v)), rotation=alone, chunk=4))


def test_masked_positions_neither_give_nor_get() -> None:
    q, k, v = _inputs(12)
    mask = torch.ones(ROWS, 12, dtype=torch.bool)
    mask[1, :2] = mask[1, 7:] = False
    masked = linear_attention(q, k, v, mask=mask, chunk=5)
    _close(masked[1:, 2:7], linear_attention(*(x[1:, 2:7] for x in (q, k, v))))
    assert masked[~mask].abs().max() == 0
    _close(linear_attention_direct(q, k, v, mask=mask), masked)
    continued, sums = continue_linear_attention(q, k, v, _nothing(), mask=mask, chunk=5)
    _close(continued, masked)
    for one, other in zip(sums, linear_attention_recurrent(q[1:, 2:7], k[1:, 2:7], v[1:, 2:7])[1], strict=True):
        _close(one[1:], other)
    gradients = torch.autograd.grad(masked.square().sum(), (q, k, v))
    assert all(gradient.isfinite().all() and gradient[~mask].abs().max() == 0 for gradient in gradients)
    blind = linear_attention(q, k, v, mask=torch.zeros_like(mask))
    assert blind.abs().max() == 0
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(blind.sum(), (q, k, v)))


def test_features_are_elu_plus_one_without_its_rounding() -> None:
    x = torch.linspace(-19, 19, 39, dtype=torch.float64, requires_grad=True)
    expected = torch.where(x > 0, x + 1, x.detach().exp())
    torch.testing.assert_close(feature_map(x), expected, rtol=1e-15, atol=0)
    (slope,) = torch.autograd.grad(feature_map(x).sum(), x)
    torch.testing.assert_close(slope, x.detach().clamp(max=0).exp(), rtol=1e-15, atol=0)
    assert feature_map(torch.tensor(-1e30)) > 0


@pytest.mark.parametrize("size", [0.0, 15.0, 100.0, 1e4, 1e38])
def test_any_finite_input_gives_finite_outputs_and_gradients(size: float) -> None:
    torch.manual_seed(0)
    for signs in ((-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)):
        q, k = (size * (torch.full((1, 70, 2, 8), float(sign)) if sign else torch.randn(1, 70, 2, 8).clamp(-3, 3)) for sign in signs)
        inputs = [x.clamp(-3e38, 3e38).requires_grad_() for x in (q, k, torch.randn(1, 70, 2, 8))]
        y = linear_attention(*inputs)
        assert y.abs().max() <= inputs[2].abs().max() * (1 + 1e-4)  # a weighted mean of values
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(y.sum(), inputs))
        assert linear_attention_recurrent(inputs[0], inputs[1], inputs[2])[0].isfinite().all()


@pytest.mark.parametrize("length", [1, 70])
def test_autocast_leaves_the_sums_in_float32(length: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, length, 2, 8, dtype=torch.bfloat16) for _ in range(3))
    nothing = (torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8))
    with torch.autocast("cpu", torch.bfloat16):
        y, sums = continue_linear_attention(q, k, v, nothing)
    exact, of_exact = continue_linear_attention(q.double(), k.double(), v.double(), (nothing[0].double(), nothing[1].double()))
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.double(), exact, rtol=5e-3, atol=1e-5)
    for one, other in zip(sums, of_exact, strict=True):
        assert one.dtype is torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)
