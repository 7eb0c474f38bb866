"""A trained Hyena whose long filters are replaced by a few decaying exponentials: a decoding state of one size, and an error.

The fit is that of ``ops/modal.py``. The mixer is a model of its own, exact in itself: ``forward`` convolves with the taps that the
exponentials give, ``prefill`` and ``step`` run them as a recurrence. How far these taps are from the trained ones is in ``error``.
Cost of a step: M modes for each channel and filter, at any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subquad.layers.gated_conv import Taps
from subquad.layers.hyena import Hyena
from subquad.ops.modal import Modes, fit_modes, init_modal, modal_scan, modal_step
from subquad.state import State


@dataclass
class ModalState(State):
    """What the exponentials have gathered, (B, D, M), and the filters, which clones share."""

    sums: Tensor
    modes: Modes


class DistilledHyena(Hyena):
    """See the module's docstring. It shares the weights of ``hyena`` and is not trained further; ``modes`` is M.

    ``error`` is the relative L2 error of each filter, (filters, D).
    """

    poles: Tensor
    residues: Tensor
    first: Tensor
    error: Tensor

    def __init__(self, hyena: Hyena, modes: int) -> None:
        nn.Module.__init__(self)
        if hyena.config.two_sided:
            raise ValueError("a two-sided Hyena has no steps that a recurrence could take: distil a causal one")
        self.config, self.dim, self.max_len = hyena.config, hyena.dim, hyena.max_len
        self.two_sided, self.filters, self.gates = False, hyena.filters, hyena.gates
        self.project, self.short, self.skip, self.out = hyena.project, hyena.short, hyena.skip, hyena.out
        with torch.no_grad():
            fits = [fit_modes(taps, modes) for taps, _ in hyena._filters(hyena.max_len)]
        # Pairs of real numbers: a model's conversion to another type leaves complex ones as they are.
        self.register_buffer("poles", torch.stack([torch.view_as_real(fit.poles) for fit in fits]))
        self.register_buffer("residues", torch.stack([torch.view_as_real(fit.residues) for fit in fits]))
        self.register_buffer("first", torch.stack([fit.first for fit in fits]))
        self.register_buffer("error", torch.stack([fit.error for fit in fits]))
        self.register_state_dict_pre_hook(_refuse)

    @property
    def fits(self) -> list[Modes]:
        """Each filter as exponentials."""
        poles, residues = torch.view_as_complex(self.poles), torch.view_as_complex(self.residues)
        return [Modes(*parts) for parts in zip(poles, residues, self.first, self.error, strict=True)]

    def _filters(self, length: int) -> list[Taps]:
        return [(fit.taps(length), None) for fit in self.fits]

    def _init_convs(self, batch: int, max_len: int) -> list[State]:
        return [ModalState(init_modal(fit, batch), fit) for fit in self.fits]

    def _continue(self, z: Tensor, conv: State, lengths: Sequence[int] | None) -> Tensor:
        assert isinstance(conv, ModalState)
        if z.shape[1] == 1 and lengths is None:
            y, conv.sums = modal_step(z[:, 0], conv.sums, conv.modes)
            return y.unsqueeze(1)
        y, conv.sums = modal_scan(z, conv.sums, conv.modes, lengths)
        return y


def _refuse(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    raise ValueError("a distilled model cannot be saved or loaded: save the one that it was made of, and distil that again")
