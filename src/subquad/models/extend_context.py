"""A trained encoder with a longer context than it was trained on, to use directly or to train further.

Position vectors are copied: those of the first ``max_len`` positions repeatedly, as the official M2-BERT of 32,768 tokens was initialised.
Long filters are functions of position, evaluated at more points, in one of two ways:

    continued   the taps stay the same, and the function continues beyond them, where its window is nearly zero
    stretched   the function is stretched over the new length, taps and window, as in the official code

A learned table of features is the usual features and what training added; the addition stays at its lags, or is stretched linearly.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.config import with_changes
from subquad.layers.base import MixerConfig
from subquad.layers.long_filter import ImplicitFilter, ImplicitFilterConfig
from subquad.models.base import expect_model
from subquad.models.encoder import Encoder

Filters = Literal["continued", "stretched"]


@torch.no_grad()
def extend_context(encoder: Encoder, max_len: int, filters: Filters) -> Encoder:
    """A new encoder with the same weights and a context of ``max_len`` ids, in evaluation mode.

    Raises ``ValueError`` for what is not an encoder, a context that is not longer than the old one, another way with filters, and mixers
    with weights of the context's size that are not functions of position: those of ``monarch`` and of a learned causal basis.
    """
    encoder = expect_model(encoder, Encoder, "expected an encoder, got {}: build other models with a larger max_len")
    config = encoder.config
    if not isinstance(max_len, int):
        raise ValueError(f"max_len must be a whole number of ids, got {max_len!r}: give one above {config.max_len}")
    if max_len <= config.max_len:
        raise ValueError(f"the context is {config.max_len} ids, and {max_len} is not longer: give a larger max_len")
    if filters not in ("continued", "stretched"):
        raise ValueError(f'filters are "continued" or "stretched", got {filters!r}')
    mixers = {index: _mixer(mixer, config.max_len, max_len, filters) for index, mixer in config.stack.overrides.items()}
    changes = {"stack.mixer": _mixer(config.stack.mixer, config.max_len, max_len, filters), "stack.overrides": mixers, "max_len": max_len}
    longer = with_changes(config, changes).build().to(encoder.embedding.weight)
    state = dict(encoder.state_dict())
    if encoder.positions is not None:
        table = encoder.positions.weight
        state["positions.weight"] = table.repeat(-(-max_len // len(table)), 1)[:max_len]
    for name, module in longer.named_modules():
        if isinstance(module, ImplicitFilter) and module.table is not None:
            state[f"{name}.table"] = _table(encoder.get_submodule(name), module, filters)
    for name, weight in longer.state_dict().items():
        if state[name].shape != weight.shape:
            old, new = tuple(state[name].shape), tuple(weight.shape)
            raise ValueError(f"{name} is {old} and {new} at {max_len} ids, which cannot be extended: train an encoder with that max_len")
    longer.load_state_dict(state)
    longer.tokenizer = encoder.tokenizer
    return longer.eval()


def _mixer(mixer: MixerConfig, old: int, new: int, filters: Filters) -> MixerConfig:
    """Its config with the length that t = 1 of its filter stands for."""
    filter_ = getattr(mixer, "filter", None)
    if not isinstance(filter_, ImplicitFilterConfig):
        return mixer
    base = filter_.filter_len or old
    unit = base if filters == "continued" else round(base * new / old)
    return with_changes(mixer, {"filter.filter_len": None if unit == new else unit})


def _table(trained: nn.Module, longer: ImplicitFilter, filters: Filters) -> Tensor:
    """The learned features at the lags of a longer filter: what they would be without training, and what that added."""
    assert isinstance(trained, ImplicitFilter) and trained.table is not None
    device, dtype = trained.table.device, trained.table.dtype
    old, usual = (part.features(torch.arange(part.max_len, device=device), dtype) for part in (trained, longer))
    learned = trained.table - old
    if filters == "continued":
        return usual + F.pad(learned, (0, 0, 0, len(usual) - len(learned)))
    return usual + F.interpolate(learned.mT[None], len(usual), mode="linear", align_corners=True)[0].mT
