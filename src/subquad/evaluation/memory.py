"""The memory that tensors hold while a computation runs: what PyTorch's allocator says on a GPU, counted where tensors are made elsewhere,
meta included.

``torch.distributed._tools.MemTracker`` is not for this: it is private, counts what existed before once it is touched, and takes four times
as long, and a second to import.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subquad.evaluation.flops import count_parameters, skeleton
from subquad.models.base import ModelConfig


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves its modes untyped
    """``peak`` is the most bytes that tensors made inside held at once; what existed before, such as weights, is not in it.

    Scratch space inside one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current: int = 0
        self.peak: int = 0
        self._sizes: dict[int, int] = {}  # bytes of each live storage

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, dict(kwargs or {}))) if isinstance(tensor, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), inputs)
        return out

    def _add(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key = storage._cdata
        if key in inputs or key in self._sizes:  # a view, or a result in place
            return
        self._sizes[key] = storage.nbytes()
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.current -= self._sizes.pop(key, 0)


def peak_memory(call: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """The most bytes that a call on ``device`` held at once, beyond those that were held before; on a GPU with scratch space."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    mode = PeakMemory()
    with mode:
        call()
    return mode.peak


def training_memory(config: ModelConfig, batch: int, length: int, logits: bool = True) -> int:
    """About how many bytes training holds: weights and AdamW's two moments in float32, and the peak of a step with its gradients on
    ``batch`` rows of ``length`` ids, counted on the meta device. Without ``logits`` the loss is of a row's embedding."""
    model = skeleton(config)

    def step() -> None:
        with torch.device("meta"):
            ids = torch.empty(batch, length, dtype=torch.long)
            (model(ids) if logits else model.embeddings(ids)).float().logsumexp(-1).sum().backward()

    try:
        return 12 * count_parameters(model) + peak_memory(step, "meta")
    finally:
        model.zero_grad()
