"""The tiled online convolution against its slow twin, whatever the split into steps and blocks, and what its state promises."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops import online_conv
from subquad.ops.online_conv import (
    OnlineConvState,
    OnlineFilter,
    init_online_conv,
    online_conv_direct,
    prefill_online_conv,
)

DIM = 3


def _case(length: int, taps: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, filters and the outputs of the slow twin."""
    torch.manual_seed(0)
    u, k = torch.randn(batch, length, DIM, dtype=torch.float64), torch.randn(DIM, taps, dtype=torch.float64)
    return u, k, online_conv_direct(u, k)


def _steps(u: Tensor, state: OnlineConvState) -> Tensor:
    return torch.stack([prefill_online_conv(x.unsqueeze(1), state).squeeze(1) for x in u.unbind(1)], 1)


def _close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (20, 1), (20, 7), (20, 20), (20, 35)])
def test_the_slow_twin_is_a_causal_convolution(length: int, taps: int) -> None:
    u, k, direct = _case(length, taps)
    _close(direct.mT, F.conv1d(F.pad(u.mT, (taps - 1, 0)), k.flip(1).unsqueeze(1), groups=DIM))


@pytest.mark.parametrize(
    ("base", "length"), [(4, n) for n in (1, 2, 3, 4, 5, 8, 9, 31, 64, 100)] + [(64, n) for n in (63, 64, 65, 129, 321)]
)
@pytest.mark.parametrize("taps", [1, 2, 17, 65, 600])
@torch.no_grad()
def test_steps_and_blocks_equal_the_slow_twin(length: int, taps: int, base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_conv, "BASE", base)
    u, k, direct = _case(length, taps)
    ready = OnlineFilter.of(k, length)
    _close(_steps(u, init_online_conv(ready, 2)), direct)
    _close(prefill_online_conv(u, init_online_conv(ready, 2)), direct)


@pytest.mark.parametrize("split", [0, 1, 63, 64, 65, 100, 128, 192, 255, 256, 299, 300])
@torch.no_grad()
def test_a_prompt_ends_anywhere(split: int) -> None:
    u, k, direct = _case(300, 300)
    state = init_online_conv(OnlineFilter.of(k, 300), 2)
    first = prefill_online_conv(u[:, :split], state)
    middle = _steps(u[:, split : split + 70], state) if split < 300 else u[:, :0]
    last = prefill_online_conv(u[:, split + 70 :], state)
    _close(torch.cat((first, middle, last), 1), direct)
    assert state.lengths == [300, 300]


@pytest.mark.parametrize("seed", range(8))
@torch.no_grad()
def test_rows_advance_by_lengths_of_their_own(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(online_conv, "BASE", chance.choice((4, 16, 64)))
    length, batch = chance.choice((100, 128, 257)), 4
    u, k, direct = _case(length, chance.choice((3, 40, length, 2 * length)), batch)
    state, at = init_online_conv(OnlineFilter.of(k, length), batch), [0] * batch
    while min(at) < length:
        n = chance.choice((1, 2, 8, 64, 130))
        counts = [min(chance.choice((0, 1, n // 2, n, n)), length - start) for start in at]
        piece = torch.full((batch, n, DIM), torch.nan, dtype=torch.float64)  # what lies beyond a row's count is not looked at
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            piece[row, :count] = u[row, start : start + count]
        together = n == 1 and counts == [1] * batch
        y = prefill_online_conv(piece, state, None if together else counts)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            _close(y[row, :count], direct[row, start : start + count])
        at = [start + count for start, count in zip(at, counts, strict=True)]
        assert state.lengths == at


@torch.no_grad()
def test_clones_go_their_own_way_and_share_the_filter() -> None:
    u, k, direct = _case(200, 200)
    state = init_online_conv(OnlineFilter.of(k, 200), 2)
    prefill_online_conv(u[:, :90], state)
    clone = state.clone()
    assert clone.filter is state.filter
    other = torch.cat((u[:, :90], -u[:, 90:]), 1)
    _close(prefill_online_conv(other[:, 90:], clone), online_conv_direct(other, k)[:, 90:])
    _close(_steps(u[:, 90:], state), direct[:, 90:])


@torch.no_grad()
def test_restarted_rows_begin_anew() -> None:
    u, k, direct = _case(200, 200, batch=3)
    state = init_online_conv(OnlineFilter.of(k, 200), 3)
    fresh = state.clone()
    prefill_online_conv(u[:, :133], state)
    state.reset([False, True, False], fresh)
    assert state.lengths == [133, 0, 133]
    again = torch.stack((u[0, 133:], u[1, :67], u[2, 133:]))
    _close(_steps(again, state), torch.stack((direct[0, 133:], direct[1, :67], direct[2, 133:])))


@torch.no_grad()
def test_float32_and_half_precision_inputs() -> None:
    u, k, direct = _case(700, 700)
    scale = direct.abs().max()
    state = init_online_conv(OnlineFilter.of(k.float(), 700), 2)
    y = torch.cat((prefill_online_conv(u[:, :300].float(), state), _steps(u[:, 300:].float(), state)), 1)
    assert y.dtype is torch.float32
    assert (y - direct).abs().max() < 2e-6 * scale
    state = init_online_conv(OnlineFilter.of(k.float(), 700), 2)
    y = torch.cat((prefill_online_conv(u[:, :300].bfloat16(), state), _steps(u[:, 300:].bfloat16(), state)), 1)
    assert y.dtype is torch.bfloat16
    assert (y - online_conv_direct(u.bfloat16().double(), k)).abs().max() < 2**-8 * scale  # only the outputs are rounded


@torch.no_grad()
def test_outputs_keep_their_values_when_the_state_moves_on() -> None:
    u, k, direct = _case(150, 150)
    state = init_online_conv(OnlineFilter.of(k, 150), 2)
    first = prefill_online_conv(u[:, :1], state)
    some = prefill_online_conv(u[:, 1:70], state)
    prefill_online_conv(u[:, 70:], state)
    _close(first, direct[:, :1])
    _close(some, direct[:, 1:70])


def test_tiles_grow_no_longer_than_the_filter() -> None:
    sizes = [[x.shape[1] - 1 for x in OnlineFilter.of(torch.randn(DIM, taps), 4096).spectra] for taps in (1, 2, 65, 66, 5000)]
    assert sizes == [[], [64], [64], [64, 128], [64, 128, 256, 512, 1024, 2048]]


def test_bytes_held() -> None:
    ready = OnlineFilter.of(torch.randn(DIM, 500), 200)
    assert ready.nbytes == DIM * (200 * 4 + 64 * 4 + (64 + 1 + 128 + 1) * 8)
    assert init_online_conv(ready, 5).nbytes == ready.nbytes + 5 * DIM * 4 * (2 * 256 + 2 * 64)
    assert init_online_conv(OnlineFilter.of(torch.randn(DIM, 500), 5), 1).nbytes == DIM * 4 * (5 + 8 + 4 * 8)


@torch.no_grad()
def test_a_full_state_is_an_error() -> None:
    ready = OnlineFilter.of(torch.randn(DIM, 3), 3)
    state = init_online_conv(ready, 2)
    prefill_online_conv(torch.randn(2, 2, DIM), state, [2, 1])
    with pytest.raises(ValueError, match="holds 3 positions and is full: give init_state a larger max_len"):
        prefill_online_conv(torch.randn(2, 2, DIM), state)
    assert state.lengths == [2, 1]
    prefill_online_conv(torch.randn(2, 2, DIM), state, [1, 2])
    with pytest.raises(ValueError, match="holds 3 positions and is full"):
        prefill_online_conv(torch.randn(2, 1, DIM), state)


def test_wrong_filters() -> None:
    with pytest.raises(ValueError, match="in float32 or float64, got torch.bfloat16: convert it"):
        OnlineFilter.of(torch.randn(DIM, 3).bfloat16(), 3)
    with pytest.raises(ValueError, match=r"got \(3, 0\) and max_len 3"):
        OnlineFilter.of(torch.randn(DIM, 0), 3)
    with pytest.raises(ValueError, match=r"got \(3, 4\) and max_len 0"):
        OnlineFilter.of(torch.randn(DIM, 4), 0)
