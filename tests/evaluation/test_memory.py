"""Counted memory against sums that can be done by hand."""

from __future__ import annotations

import pytest
import torch

from subquad.evaluation.memory import peak_memory


def test_the_peak_is_what_is_held_at_once() -> None:
    def call() -> None:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b * 2  # a is gone: two are held
        c[10:].add_(1)  # a view and a result in place make nothing
        c.relu_()

    assert peak_memory(call) == 8000


def test_what_was_there_before_does_not_count() -> None:
    a = torch.zeros(1000)
    assert peak_memory(lambda: a[5:].t()) == 0
    assert peak_memory(lambda: a + a) == 4000


def test_gradients_and_what_they_need_are_seen() -> None:
    weight = torch.zeros(1000, requires_grad=True)

    def call() -> None:
        torch.autograd.backward(weight.exp().sum())

    assert peak_memory(call) >= 8000  # the result that the gradient needs, and the gradient
    weight.grad = None
    assert peak_memory(call) == peak_memory(call)


def test_the_meta_device_is_counted_without_memory() -> None:
    assert peak_memory(lambda: torch.zeros(10**12, device="meta") + 1) == 8 * 10**12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_itself_what_it_held() -> None:
    before = torch.zeros(1 << 20, device="cuda")
    assert peak_memory(lambda: before + 1, "cuda") == 4 << 20
