"""Attention and rotary positions against their slow twins, in values and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from subquad.layers.attention import AttentionConfig
from subquad.layers.base import MixerConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.ops import attention
from subquad.ops.attention import attend, causal_attention, causal_attention_direct, check_length, visible
from subquad.ops.ragged import put_rows, take_rows
from subquad.ops.rotary import STEPS, RotarySteps, next_rotation, rotary_table, rotate, rotate_direct

PATTERNS: list[dict[str, Any]] = [
    {},
    {"window": 1},
    {"window": 3},
    {"window": 70},
    *({"segment": segment, "lookback": back} for segment, back in itertools.product((1, 4, 5, 66), (0, 1, 4)) if back <= segment),
]


def _inputs(length: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q = torch.randn(2, length, 3, 4, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn_like(q).requires_grad_() for _ in range(2))
    return q, k, v


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 23, 65, 140])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_equals_the_slow_twin(pattern: dict[str, Any], length: int) -> None:
    q, k, v = _inputs(length)
    weight = torch.randn(2, length, 3, 4, dtype=torch.float64)
    fast, slow = causal_attention(q, k, v, **pattern), causal_attention_direct(q, k, v, **pattern)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    of_fast = torch.autograd.grad((fast * weight).sum(), (q, k, v))
    of_slow = torch.autograd.grad((slow * weight).sum(), (q, k, v))
    for one, other in zip(of_fast, of_slow, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_more_rows_than_a_kernel_takes_are_done_in_pieces(pattern: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (x.detach().repeat(5, 1, 1, 1).requires_grad_() for x in _inputs(140))
    for mask in (None, torch.rand(10, 140) < 0.8):
        whole = causal_attention(q, k, v, **pattern, mask=mask)
        with monkeypatch.context() as patch:
            patch.setattr(attention, "MOST_ROWS", 8)  # of two rows of three heads at a time
            pieces = causal_attention(q, k, v, **pattern, mask=mask)
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-14)
        gradients = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (whole, pieces)]
        torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_a_length_that_a_gpu_computes_wrongly_is_refused() -> None:
    check_length(65_536, torch.float32, "cuda")
    check_length(65_537, torch.bfloat16, "cuda")
    check_length(65_537, torch.float32, "cpu")
    with pytest.raises(ValueError, match="at most 65,536 positions, got 65,537: use dtype=bfloat16"):
        check_length(65_537, torch.float32, "cuda")


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_masked_positions_are_not_seen(pattern: dict[str, Any]) -> None:
    q, k, v = _inputs(12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    masked = causal_attention(q, k, v, mask=mask, **pattern)
    alone = causal_attention(q[1:, :7], k[1:, :7], v[1:, :7], **pattern)
    torch.testing.assert_close(masked[1:, :7], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [12, 100])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_position_that_sees_nothing_gets_zeros(pattern: dict[str, Any], length: int) -> None:
    q, k, v = _inputs(length)
    blind = causal_attention(q, k, v, mask=torch.zeros(2, length, dtype=torch.bool), **pattern)
    assert blind.abs().max() == 0
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(blind.sum(), (q, k, v)))


@pytest.mark.parametrize("length", [8, 100])
def test_the_two_methods_agree(length: int) -> None:
    """A short block is multiplied out, a long one goes to the fused kernel: the same numbers at the border of both."""
    q, k, v = _inputs(length)
    seen = visible(length, None, None, 0, q.device)
    torch.testing.assert_close(attend(q, k, v, seen), causal_attention_direct(q, k, v), rtol=0, atol=1e-12)


def test_rotation_equals_complex_multiplication() -> None:
    x = torch.randn(2, 9, 3, 8, dtype=torch.float64, requires_grad=True)
    positions = torch.arange(9)
    cos, sin = rotary_table(positions, 8, 10_000.0, torch.float64)
    fast = rotate(x, cos[:, None], sin[:, None])
    slow = rotate_direct(x, positions[:, None].expand(9, 3), 10_000.0)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-13)
    weight = torch.randn_like(fast)
    one, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (fast, slow))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 8, dtype=torch.float64)
    products = []
    for origin in (0, 17, 1_000_000):
        cos, sin = rotary_table(torch.tensor([origin, origin + 5]), 8, 10_000.0, torch.float64)
        products.append(rotate(q, cos[1], sin[1]) @ rotate(k, cos[0], sin[0]))
    torch.testing.assert_close(products[0], products[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(products[0], products[2], rtol=0, atol=1e-8)


def test_the_table_that_a_state_holds_is_that_of_its_positions() -> None:
    steps: RotarySteps | None = None
    runs = [([0], 1), ([1, 1], 1), ([STEPS - 1], 1), ([STEPS - 2], 5), ([STEPS], 1), ([3, 7], 2), ([5 * STEPS + 3], 1), ([2], 1)]
    for starts, count in runs:
        tables, steps = next_rotation(steps, starts, count, 8, 10_000.0, torch.float64, torch.device("cpu"))
        positions = torch.tensor(starts if len(set(starts)) > 1 else starts[:1]).unsqueeze(1) + torch.arange(count)
        expected = rotary_table(positions if len(set(starts)) > 1 else positions[0], 8, 10_000.0, torch.float64)
        assert torch.equal(tables[0], expected[0]) and torch.equal(tables[1], expected[1])
    assert steps is not None and steps.nbytes == 2 * STEPS * 8 * 8
    tables, steps = next_rotation(steps, [2], 1, 8, 10_000.0, torch.float32, torch.device("cpu"))
    assert tables[0].dtype == torch.float32


@torch.no_grad()
def test_a_trace_with_fake_tensors_leaves_nothing_behind() -> None:
    """As ``torch.export`` runs a model: the real run after it computes real numbers."""
    configs: list[MixerConfig] = [AttentionConfig(heads=2), LinearAttentionConfig(heads=2, rotary=True)]
    for config in configs:
        mixer = config.build(8, 16)
        with FakeTensorMode(allow_non_fake_inputs=True):
            mixer(torch.zeros(1, 16, 8))
        assert type(mixer(torch.zeros(1, 16, 8))) is torch.Tensor
        assert type(mixer.step(torch.zeros(1, 8), mixer.init_state(1, 16))) is torch.Tensor


@pytest.mark.parametrize("starts", [[2, 2], [0, 3]])
def test_rows_are_read_and_written_where_each_row_stands(starts: list[int]) -> None:
    x = torch.arange(20).reshape(2, 10)
    assert take_rows(x, starts, 4).tolist() == [x[b, start : start + 4].tolist() for b, start in enumerate(starts)]
    new = -torch.ones(2, 9, dtype=torch.long)
    expected = x.clone()
    for b, start in enumerate(starts):
        expected[b, start : start + 9] = -1
    put_rows(x, starts, new)
    assert x.tolist() == expected.tolist()
