"""The chain in pieces equals its operations one after another, in values and gradients, whatever the pieces, sides, gates and masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.ops import fft_conv
from subquad.ops.gated_conv import Filter, gated_conv, gated_conv_composed
from subquad.ops.long_conv import spectrum

BATCH, DIM, LENGTH = 2, 5, 70


@pytest.fixture(params=[1, 3, 100])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """That many channels at a time."""
    monkeypatch.setattr(fft_conv, "CACHED", request.param * BATCH * fft_conv.fast_size(2 * LENGTH))


def inputs(gates: tuple[int, ...], filters: int, two_sided: bool, taps: int = LENGTH, length: int = LENGTH) -> list[Tensor]:
    """p, short, bias, skip, then the filters and their reverse ones, all in double precision."""
    torch.manual_seed(0)
    parts = len(gates) + 1
    shapes = [(BATCH, parts * DIM, length), (parts * DIM, 3), (parts * DIM,), (filters, DIM), *[(DIM, taps)] * (filters * (1 + two_sided))]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def filters_of(tensors: list[Tensor], filters: int, two_sided: bool) -> list[Filter]:
    return [(tensors[n], tensors[filters + n] if two_sided else None) for n in range(filters)]


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("gates", "filters"), [((1, 0), 1), ((0,), 1), ((2, 0, 1), 3), ((0, 1, 2), 2)])
def test_values_and_gradients(gates: tuple[int, ...], filters: int, masked: bool, two_sided: bool) -> None:
    p, short, bias, skip, *taps = given = inputs(gates, filters, two_sided)
    real = torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 20]]) if masked else None
    if real is not None:
        p.data.masked_fill_(~real[:, None], torch.inf)
    held = filters_of(taps, filters, two_sided)
    fast = gated_conv(p, short, bias, held, skip, gates, real)
    slow = gated_conv_composed(p, short, bias, held, skip, gates, real, method="direct")
    torch.testing.assert_close(fast, slow)
    upstream = torch.randn_like(fast)
    for ours, twin in zip(torch.autograd.grad(fast, given, upstream), torch.autograd.grad(slow, given, upstream), strict=True):
        torch.testing.assert_close(ours, twin)


def test_gradients_against_differences() -> None:
    p, short, bias, skip, taps = (tensor.detach() for tensor in inputs((1, 0), 1, False, taps=66, length=66))
    channels = [part * DIM + channel for part in range(3) for channel in range(2)]  # two of each part
    small = [p[:1, channels], short[channels], bias[channels], skip[:, :2], taps[:2]]
    leaves = [tensor.clone().requires_grad_() for tensor in small]
    assert torch.autograd.gradcheck(lambda p, short, bias, skip, taps: gated_conv(p, short, bias, [(taps, None)], skip, (1, 0)), leaves)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    p, short, bias, skip, taps = (tensor.detach() for tensor in inputs((1, 0), 1, False))
    bias.requires_grad_()
    y = gated_conv(p, short, bias, [(taps, None)], skip, (1, 0))
    y.sum().backward()
    twin = bias.detach().requires_grad_()
    gated_conv_composed(p, short, twin, [(taps, None)], skip, (1, 0)).sum().backward()
    torch.testing.assert_close(bias.grad, twin.grad)


@pytest.mark.parametrize("length", [20, LENGTH])  # with and without transforms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_only_the_digits_of_its_input_and_output(dtype: torch.dtype, length: int) -> None:
    p, short, bias, skip, taps = (tensor.detach().float() for tensor in inputs((1, 0), 1, False, length=length))
    p = p.to(dtype).requires_grad_()
    y = gated_conv(p, short, bias, [(taps, None)], skip, (1, 0))
    whole = p.detach().float().requires_grad_()
    twin = gated_conv_composed(whole, short, bias, [(taps, None)], skip, (1, 0))
    assert y.dtype == dtype
    torch.testing.assert_close(y, twin.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-4)
    y.float().sum().backward()
    twin.sum().backward()
    assert p.grad is not None and whole.grad is not None and p.grad.dtype == dtype
    scale = whole.grad.abs().max()
    torch.testing.assert_close(p.grad.float() / scale, whole.grad / scale, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_spectra_made_before_give_the_same() -> None:
    p, short, bias, skip, *taps = (tensor.detach() for tensor in inputs((2, 0, 1), 3, True))
    held = filters_of(taps, 3, True)
    made: list[Filter] = [(spectrum(taps[n], LENGTH + 9, taps[3 + n]), None) for n in range(3)]
    ours, twin = (gated_conv(p, short, bias, one, skip, (2, 0, 1)) for one in (made, held))
    torch.testing.assert_close(ours, twin)


def test_only_p_the_parameters_and_the_outputs_of_filters_are_kept() -> None:
    p, short, bias, skip, *taps = inputs((2, 0, 1), 3, False)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gated_conv(p, short, bias, filters_of(taps, 3, False), skip, (2, 0, 1))
    parameters = sum(tensor.numel() for tensor in (short, bias, skip, *taps))
    assert sum(kept.values()) == p.numel() + 3 * BATCH * DIM * LENGTH + parameters


@pytest.mark.parametrize(("taps", "length"), [(3, LENGTH), (LENGTH, 20), (0, LENGTH), (LENGTH, 0)])
def test_short_filters_and_inputs_take_the_other_way(taps: int, length: int) -> None:
    p, short, bias, skip, k = inputs((1, 0), 1, False, taps=taps, length=length)
    ours = gated_conv(p, short, bias, [(k, None)], skip, (1, 0))
    twin = gated_conv_composed(p, short, bias, [(k, None)], skip, (1, 0), method="fft")
    torch.testing.assert_close(ours, twin)


def test_filters_of_two_lengths() -> None:
    p, short, bias, skip, k, other = inputs((1, 0), 2, False)
    held: list[Filter] = [(k, None), (other[:, :30], None)]
    ours, twin = gated_conv(p, short, bias, held, skip, (1, 0)), gated_conv_composed(p, short, bias, held, skip, (1, 0), method="direct")
    torch.testing.assert_close(ours, twin)


def test_what_does_not_fit_is_told() -> None:
    p, short, bias, skip, k = (tensor.detach() for tensor in inputs((1, 0), 1, False))

    def refused(match: str, **changed: Any) -> None:
        given: dict[str, Any] = {"p": p, "short": short, "bias": bias, "filters": [(k, None)], "skip": skip, "gates": (1, 0)} | changed
        with pytest.raises(ValueError, match=match):
            gated_conv(**given)

    for gates in ((0,), (0, 0), (-2, 0), (0, 1, 0), ()):
        refused("each part but the last must gate once", gates=gates)
    refused("each part but the last must gate once", filters=[], skip=skip[:0])
    refused("skip must be", filters=[])
    refused("skip must be", skip=skip.expand(2, -1))
    refused("skip must be", skip=skip[:, :4])
    refused("short .P D, taps.", short=short[:1])
    refused("short .P D, taps.", bias=bias[:2])
    refused("real must be", real=torch.ones(BATCH, LENGTH, dtype=torch.int64))
    refused("real must be", real=torch.ones(BATCH, LENGTH + 1, dtype=torch.bool))
    refused("one filter per channel", filters=[(k[:1], None)])
    refused("u must be", filters=[(spectrum(k[:1], LENGTH), None)])
    refused("u must be", filters=[(spectrum(torch.cat((k, k)), LENGTH), None)])
    refused("real floating-point", filters=[(k.to(torch.complex128), None)])
