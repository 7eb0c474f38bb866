"""The tensors of a checkpoint by the names they have in the bare model, whatever was put around them on the way to the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CONTAINERS = ("state_dict", "model_state_dict", "state", "model", "module")  # of Lightning, tutorials, Composer and DeepSpeed
PREFIXES = ("module.", "_orig_mod.", "_forward_module.", "model.")  # of DDP, torch.compile, and a model inside of a trainer's module
_INSIDE = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_CHECKPOINTED = re.compile(r"\.(mixer|mlp)\.layer\.")  # of activation checkpointing in safari


def unwrap(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, and what was taken off or left out, one text each.

    Taken off are containers (``CONTAINERS``), prefixes that all names share (``PREFIXES``), and what wrappers put inside of names. Raises
    ``ValueError`` for a checkpoint that holds itself, for tensors that are sparse, or neither float32 nor float64 (the numbers of positions
    apart), for tensors of both, and for two tensors of one name.
    """
    inner, notes = _opened(state)
    names, prefixes = _without_prefixes([str(name) for name in inner])
    tensors: dict[str, Tensor] = {}
    types: dict[torch.dtype, str] = {}
    for name, tensor in zip(names, inner.values(), strict=True):
        bare = _CHECKPOINTED.sub(r".\1.", _INSIDE.sub("", name))
        if bare in tensors:
            raise ValueError(f"the state holds {bare!r} twice, once inside of a wrapper: keep one of them")
        tensors[bare] = _checked(bare, tensor)
        if tensor.is_floating_point():
            types.setdefault(tensor.dtype, bare)
    if len(types) > 1:
        (one, first), (other, second) = list(types.items())[:2]
        raise ValueError(f"the state holds {one} at {first!r} and {other} at {second!r}: convert all to one, as with tensor.float()")
    wrapped = sum(bare != name for bare, name in zip(tensors, names, strict=True))
    notes += [f"unwrapped: the prefix {prefix}" for prefix in prefixes]
    return tensors, notes + ([f"unwrapped: wrappers inside of {wrapped} names"] if wrapped else [])


def _opened(state: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    notes: list[str] = []
    seen: set[int] = set()
    while name := next((name for name in CONTAINERS if isinstance(state.get(name), Mapping)), None):
        if id(state) in seen:
            raise ValueError(f"the checkpoint holds itself under {name!r}: save the state dict alone")
        seen.add(id(state))
        others = ", ".join(sorted(str(other) for other in state if other != name)[:8])
        notes.append(f"unwrapped: {name}" + (f" (left out beside it: {others})" if others else ""))
        state = state[name]
    return state, notes


def _without_prefixes(names: list[str]) -> tuple[list[str], list[str]]:
    taken = []
    while names and (prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in names)), None)):
        names = [name.removeprefix(prefix) for name in names]
        taken.append(prefix)
    return names, taken


def _checked(name: str, tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"the state holds {type(tensor).__name__} at {name!r}: expected tensors in float32")
    if tensor.layout != torch.strided or tensor.is_quantized:
        what = "a quantized" if tensor.is_quantized else "a sparse"
        dense = "dequantize" if tensor.is_quantized else "to_dense"
        raise ValueError(f"the state holds {what} tensor at {name!r}: expected tensors in float32 (convert it with tensor.{dense}())")
    if not name.endswith("position_ids") and tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the state holds {tensor.dtype} at {name!r}: expected tensors in float32 (convert others with tensor.float())")
    return tensor
