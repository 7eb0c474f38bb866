"""The numbers that official code made: some cases of each kind in ``tests/goldens``, or all in the folder that SUBQUAD_GOLDENS names.

The summary of a test run counts the cases that were not there.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from subquad.interop.keys import Keys

SHIPPED = Path(__file__).resolve().parents[1] / "goldens"
FOLDER = Path(os.environ.get("SUBQUAD_GOLDENS") or SHIPPED)
ALL = (SHIPPED / "all.txt").read_text(encoding="utf-8").split()  # the names of every case, and of the keys of full-size models


class Golden:
    """One case: the official config, state, inputs, outputs and gradients by their official names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.about: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        self.config: dict[str, Any] = self.about["config"]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(FOLDER / f"{self.name}.safetensors")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix`` and a dot, without it."""
        return {name.removeprefix(prefix + "."): tensor for name, tensor in self.tensors.items() if name.startswith(prefix + ".")}

    @property
    def state(self) -> dict[str, Tensor]:
        return self.part("state")

    def error(self, name: str, ours: Tensor) -> float:
        """The largest difference from the official tensor, as a share of what is allowed: ten times the official code's own rounding and
        1e-6 of the largest number, but never more than 1e-4 of it."""
        official = self.tensors[name]
        assert ours.shape == official.shape, f"{name}: {tuple(ours.shape)} instead of {tuple(official.shape)}"
        largest = float(official.abs().max())
        rounding = self.about["fp32_minus_fp64_max_abs"].get(name, 0.0)
        allowed: float = min(10 * rounding + 1e-6 * largest, 1e-4 * largest)
        return float((ours.detach().double() - official.double()).abs().max()) / allowed


def cases(pattern: str, without: tuple[str, ...] = ()) -> list[str]:
    """The names of the cases of a pattern that are there."""
    return sorted(path.stem for path in FOLDER.glob(f"{pattern}.json") if path.stem not in without)


def missing() -> list[str]:
    """The names of cases that are not there."""
    return [name for name in ALL if not (FOLDER / f"{name}.json").is_file()]


def summary() -> str:
    """How many cases were there, and how many of each kind were not."""
    absent = Counter(name.split("/")[0].split("_")[0] for name in missing())
    text = f"goldens: {len(ALL) - absent.total()} of {len(ALL)} cases compared with official numbers"
    if not absent:
        return text
    kinds = ", ".join(f"{count} of {kind}" for kind, count in absent.items())
    return f"{text}; not there: {kinds} (SUBQUAD_GOLDENS names a folder that has them all)"


def full_size(name: str) -> dict[str, Any]:
    """What is known of an official model of full size: config, parameters, and its state as meta tensors. Skips the test without it."""
    if f"keys/{name}" in missing():
        pytest.skip(f"the keys of {name} are not in {FOLDER}")
    about: dict[str, Any] = json.loads((FOLDER / "keys" / f"{name}.json").read_text(encoding="utf-8"))
    return about | {"state": {key: torch.empty(one["shape"], device="meta") for key, one in about["state"].items()}}


@contextmanager
def watched(modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """The first input and the output of modules, from calls while it is open."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, module: nn.Module) -> RemovableHandle:
        return module.register_forward_hook(lambda _, args, output: seen.__setitem__(name, (args[0], output)))

    handles = [keep(name, module) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def check_equal(golden: Golden, ours: dict[str, Tensor]) -> None:
    """All tensors that the case holds under these names, and at least one."""
    errors = {name: golden.error(name, tensor) for name, tensor in ours.items() if name in golden.tensors}
    assert errors and max(errors.values()) <= 1, errors


def gradients(golden: Golden, module: nn.Module, keys: Keys) -> dict[str, Tensor]:
    """Gradients of a module's weights by their official names; where the case holds any, it holds all of them."""
    written = keys.write({name: one.grad for name, one in module.named_parameters() if one.grad is not None})
    assert written.keys() == golden.part("grad.state").keys()
    return {f"grad.state.{name}": gradient for name, gradient in written.items()}
