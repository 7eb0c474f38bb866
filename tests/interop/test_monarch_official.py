"""Monarch's official numbers, given again: products, layers, projections, Fourier transforms; values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subquad import from_official
from subquad.interop.official import official_module
from subquad.layers.monarch_linear import MonarchLinear
from subquad.ops.monarch import (
    block_diagonal_dense,
    block_diagonal_multiply,
    monarch_dense,
    monarch_dft,
    monarch_dft_factors,
    monarch_multiply,
    monarch_multiply_rank,
    monarch_product,
    project_to_monarch,
)
from tests.interop.golden import Golden, cases

PAIRS = "view_as_real"


def tensor(golden: Golden, name: str) -> Tensor:
    """A tensor of the case; complex ones are stored as pairs."""
    pairs = golden.tensors.get(f"{name}.{PAIRS}")
    return golden.tensors[name] if pairs is None else torch.view_as_complex(pairs)


def check_equal(golden: Golden, ours: dict[str, Tensor]) -> None:
    errors = {}
    for name, value in ours.items():
        stored = f"{name}.{PAIRS}" if value.is_complex() else name
        errors[name] = golden.error(stored, torch.view_as_real(value.detach()) if value.is_complex() else value)
    assert errors and max(errors.values()) <= 1, errors


def with_gradients(golden: Golden, y: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    loss = (y * tensor(golden, "in.grad_y")).sum()
    found = torch.autograd.grad(loss.real, list(inputs.values()))
    return {"out.y": y} | {f"grad.{name}": gradient for name, gradient in zip(inputs, found, strict=True)}


@pytest.mark.parametrize("name", cases("monarch_multiply_*"))
def test_products(name: str) -> None:
    golden = Golden(name)
    inputs = {key: tensor(golden, key).requires_grad_() for key in ("in.x", "in.w1_bfly", "in.w2_bfly")}
    x, w1, w2 = inputs.values()
    check_equal(golden, with_gradients(golden, monarch_multiply(x, w1, w2), inputs) | {"out.dense": monarch_dense(w1, w2)})


def test_the_product_of_a_rank() -> None:
    golden = Golden("monarch_einsum_rank")
    y = monarch_multiply_rank(*(tensor(golden, f"in.{key}") for key in ("x", "w1_bfly", "w2_bfly")))
    check_equal(golden, {"out.y": y})


@pytest.mark.parametrize("name", cases("monarch_project_*"))
def test_projections(name: str) -> None:
    golden = Golden(name)
    w1, w2 = project_to_monarch(tensor(golden, "in.M"), golden.config["sizes"])
    assert w1.shape == golden.tensors["out.w1_bfly"].shape and w2.shape == golden.tensors["out.w2_bfly"].shape
    check_equal(golden, {"out.projected_dense": monarch_dense(w1, w2)})


@pytest.mark.parametrize("name", cases("monarch_*fft_*"))
def test_fourier_transforms(name: str) -> None:
    """The callable of every order, the official factors in our product, and ours, which differ from those in signs alone."""
    golden = Golden(name)
    n, inverse = golden.config["n"], golden.config["direction"] == "ifft"
    x = tensor(golden, "in.x")
    for order in (1, 2, 3):
        check_equal(golden, {"out.y": monarch_dft(n, inverse, golden.config["norm"], order)(x)})
    permutation, factors = monarch_dft_factors(n, inverse, golden.config["norm"])
    assert torch.equal(permutation, golden.tensors["state.perm"])
    official = [torch.view_as_complex(golden.tensors[f"state.w{index}_bfly"]) for index in (1, 2)]
    for pair in (official, factors):
        check_equal(golden, {"out.y": monarch_product(x[..., permutation], pair)})
    for ours, theirs in zip(factors, official, strict=True):
        torch.testing.assert_close(ours.abs(), theirs.abs(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", cases("monarch_linear_*"))
def test_linear_maps(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module("monarch-linear", golden.config, golden.state)
    assert isinstance(module, MonarchLinear) and not module.training
    x = tensor(golden, "in.x").requires_grad_()
    weights = dict(module.named_parameters())
    numbers = with_gradients(golden, module(x), {"in.x": x, **weights})
    official = keys.write({name: numbers.pop(f"grad.{name}") for name in weights})
    numbers |= {f"grad.state.{name}": gradient for name, gradient in official.items()} | {"out.dense_weight": module.dense()}
    check_equal(golden, numbers)
    with pytest.raises(ValueError, match="built for that width"):
        module(x[..., 1:])


def test_block_diagonal_products() -> None:
    golden = Golden("blockdiag_linear")
    inputs = {key: tensor(golden, key).requires_grad_() for key in ("in.x", "state.weight", "state.bias")}
    x, weight, bias = inputs.values()
    y = block_diagonal_multiply(x, weight) + bias
    check_equal(golden, with_gradients(golden, y, inputs) | {"out.dense_weight": block_diagonal_dense(weight)})


def test_a_state_that_does_not_fit() -> None:
    golden = Golden("monarch_linear_up")
    with pytest.raises(ValueError, match=r"monarch-linear: .*missing blkdiag2.*unexpected blkdiag3"):
        from_official(
            "monarch-linear", golden.config, {**{k: v for k, v in golden.state.items() if k != "blkdiag2"}, "blkdiag3": torch.ones(1)}
        )
    with pytest.raises(ValueError, match="unknown official options blocks"):
        from_official("monarch-linear", {**golden.config, "blocks": 4}, golden.state)
