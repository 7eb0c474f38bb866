"""The numbers that official code made, read from ``$SUBQUAD_GOLDENS`` or from ``../shared/golden`` beside the project."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(os.environ.get("SUBQUAD_GOLDENS") or Path(__file__).resolve().parents[2].parent / "shared" / "golden")
ABSENT = f"the golden numbers are not at {FOLDER}: set SUBQUAD_GOLDENS"


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
    """The names of the cases of a pattern, none where the folder is missing."""
    return sorted(path.stem for path in FOLDER.glob(f"{pattern}.json") if path.stem not in without)


def full_size(name: str) -> dict[str, Any]:
    """What is known of an official model of full size: config, parameters, and its state as meta tensors."""
    about: dict[str, Any] = json.loads((FOLDER / "keys" / f"{name}.json").read_text(encoding="utf-8"))
    return about | {"state": {key: torch.empty(one["shape"], device="meta") for key, one in about["state"].items()}}
