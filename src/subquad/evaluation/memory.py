"""The memory that tensors hold while a computation runs, counted where they are made: the same on every device, meta included."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves its modes untyped
    """``peak`` is the most bytes that tensors made inside held at once; what existed before, such as weights, is not in it.

    Scratch space inside one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: int = 0
        self.peak: int = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, dict(kwargs or {}))) if isinstance(tensor, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage(), before)
        return out

    def _see(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = storage._cdata
        if key in before or key in self._known:  # a view, or a result in place
            return
        self._known[key] = storage.nbytes()
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.held -= self._known.pop(key, 0)


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes that the tensors made by a call held at most."""
    mode = PeakMemory()
    with mode:
        call()
    return mode.peak
