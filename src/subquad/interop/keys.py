"""How an official state dict holds the tensors of a module of ours: under which names, in which layout.

The table is read both ways: from official tensors to ours, and from ours (weights or gradients) back to official names. A state that does
not fit is an error that lists missing, unexpected and reshaped tensors, and tensors that should be equal but differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

StateDict = dict[str, Tensor]

SHOWN = 20  # names of each sort in an error


@dataclass(frozen=True)
class Layout:
    """Two functions, each other's inverse, that move a tensor's numbers between the official layout and ours."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], Tensor]

    def then(self, other: Layout) -> Layout:
        """This one on the way in, then the other."""
        return Layout(lambda official: other.read(self.read(official)), lambda ours: self.write(other.write(ours)))


SAME = Layout(lambda official: official, lambda ours: ours)


@dataclass(frozen=True)
class Key:
    """One tensor of ours and its official name; the state also has it under the names of ``copies``."""

    official: str
    ours: str
    layout: Layout = SAME
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constant:
    """A tensor that the official state holds and a module of ours computes, so that it must be this, or is used by neither (``value`` on
    the meta device: only its shape counts)."""

    official: str
    value: Tensor
    tolerance: float = 1e-6


def weight_and_bias(official: str, ours: str) -> list[Key]:
    """Those of a norm or a linear map."""
    return [Key(f"{official}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]


class Keys:
    """The official state of a module: what is read from it, and what it must agree with.

    ``optional`` names copies and constants that may be missing.
    """

    def __init__(self, keys: Iterable[Key], constants: Iterable[Constant] = (), optional: Iterable[str] = ()) -> None:
        self.keys, self.constants, self.optional = list(keys), list(constants), frozenset(optional)

    def under(self, official: str, ours: str) -> Keys:
        """The same for a module inside another, with both prefixes before the names."""
        keys = [
            Key(official + key.official, ours + key.ours, key.layout, tuple(official + copy for copy in key.copies)) for key in self.keys
        ]
        constants = [Constant(official + constant.official, constant.value, constant.tolerance) for constant in self.constants]
        return Keys(keys, constants, (official + name for name in self.optional))

    def __add__(self, other: Keys) -> Keys:
        return Keys(self.keys + other.keys, self.constants + other.constants, self.optional | other.optional)

    def load(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Puts the tensors of an official state, in their type and on their device, into a module that may be on the meta device.

        Raises ``ValueError`` with the list of what does not fit.
        """
        ours = {name: torch.empty(tensor.shape, device="meta") for name, tensor in module.state_dict().items()}
        self._check_fit(ours, state)
        tensors = {key.ours: key.layout.read(state[key.official].detach()) for key in self.keys}
        tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        module.load_state_dict(tensors, assign=True)

    def write(self, tensors: Mapping[str, Tensor]) -> StateDict:
        """Tensors by our names, weights or gradients, under their official names (the first where there are copies) and in that layout."""
        return {key.official: key.layout.write(tensors[key.ours]) for key in self.keys if key.ours in tensors}

    def _check_fit(self, ours: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        expected = {name: tensor.shape for name, tensor in self.write(ours).items()}
        expected |= {copy: expected[key.official] for key in self.keys for copy in key.copies}
        expected |= {constant.official: constant.value.shape for constant in self.constants}
        reshaped = [
            f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
            for name, shape in expected.items()
            if name in state and state[name].shape != shape
        ]
        wrong = {
            "missing": [name for name in expected if name not in state and name not in self.optional],
            "unexpected": [name for name in state if name not in expected],
            "reshaped": reshaped,
        }
        if not any(wrong.values()):
            wrong = {"different from what they must equal": [*self._differing_copies(state), *self._differing_constants(state)]}
        if any(wrong.values()):
            raise ValueError(
                f"the state does not fit the config: {'; '.join(_listed(sort, names) for sort, names in wrong.items() if names)}"
            )

    def _differing_copies(self, state: Mapping[str, Tensor]) -> Iterable[str]:
        for key in self.keys:
            first = state[key.official]
            for copy in key.copies:
                if copy in state and not first.is_meta and not torch.equal(first, state[copy]):
                    yield f"{copy} (a copy of {key.official})"

    def _differing_constants(self, state: Mapping[str, Tensor]) -> Iterable[str]:
        for constant in self.constants:
            if constant.official in state and not equals(state[constant.official], constant.value, constant.tolerance):
                yield f"{constant.official} (a constant of the config)"


def equals(tensor: Tensor, constant: Tensor, tolerance: float) -> bool:
    """Whether a tensor is a constant but for rounding; one on the meta device may be anything."""
    if tensor.is_meta or constant.is_meta:
        return True
    return bool((tensor.double() - constant.to(tensor.device).double()).abs().max() <= tolerance)


def _listed(sort: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{sort} {', '.join(names[:SHOWN])}{more}"
