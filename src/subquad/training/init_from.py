"""Starting from another run's weights: all of them, or a language model's or an encoder's as the backbone of a classifier."""

from __future__ import annotations

from torch import nn

from subquad.config import with_changes
from subquad.layers.long_filter import ImplicitFilter
from subquad.models.base import Model
from subquad.models.classifier import Classifier
from subquad.models.encoder import Encoder
from subquad.models.extend_context import extend_context
from subquad.run_folder import load, state_shapes
from subquad.training.config import TrainConfig, differences

SHOWN = 6  # settings that an error names


def init_from(model: Model, source: str) -> None:
    """Copies the weights of the run ``source`` into a model, which takes its tokenizer along.

    An encoder with a longer context than the run's starts as ``extend_context`` makes it. Raises ``ValueError`` when the run's model has
    other shapes, with the keys that make it so, and where filters of another length would be stretched unasked.
    """
    start = load(source)
    assert isinstance(start, Model)
    old, new = start, model
    if isinstance(model, Classifier) and state_shapes(start) != state_shapes(model):
        old, new = start.backbone if isinstance(start, Classifier) else start, model.backbone
    if isinstance(old, Encoder) and isinstance(new, Encoder):
        old = _as_long(_with_head_of(old, new), new, source)
    if state_shapes(old) != state_shapes(new):
        raise ValueError(f"{source} holds another model; the two differ in {_difference(old, new)}")
    _check_same_filters(old, new, source)
    new.load_state_dict(old.state_dict())
    model.tokenizer = start.tokenizer


def _difference(old: Model, new: Model) -> str:
    """In which settings two models differ, the first few, and the remedy."""
    if old.config.kind != new.config.kind:
        return f"kind, {old.config.kind} there and {new.config.kind} here: start from a run of such a model"
    changed = differences(TrainConfig(model=new.config), TrainConfig(model=old.config))
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return f"{', '.join(changed[:SHOWN])}{more}: give the same values to start from its weights"


def _with_head_of(old: Encoder, new: Encoder) -> Encoder:
    """The old encoder without its head where the new one has none; a pooler that it lacks starts as the new one's."""
    if new.config.head != "none" or old.config.head == "none":
        return old
    headless = with_changes(old.config, {"head": "none", "pooling": new.config.pooling.model_dump()}).build()
    fresh = {name: tensor for name, tensor in new.state_dict().items() if name.startswith("pooler.")}
    trained = {name: tensor for name, tensor in old.state_dict().items() if not name.startswith("head.")}
    headless.load_state_dict(fresh | trained if headless.pooler is not None else trained)
    return headless


def _as_long(old: Encoder, new: Encoder, source: str) -> Encoder:
    """The old encoder with the new one's context, where that is longer."""
    if new.max_len <= old.max_len:
        return old
    _check_same_filters(old, new, source)
    filters = [module.config.filter_len for module in new.modules() if isinstance(module, ImplicitFilter)]
    return extend_context(old, new.max_len, "stretched" if new.max_len in filters else "continued")


def _check_same_filters(old: nn.Module, new: nn.Module, source: str) -> None:
    """Raises ``ValueError`` where filters of another length would be stretched silently."""
    filters = [[module for module in model.modules() if isinstance(module, ImplicitFilter)] for model in (old, new)]
    for before, after in zip(*filters, strict=False):  # models that differ otherwise are refused elsewhere
        if before.max_len != after.max_len and after.config.filter_len is None:
            raise ValueError(
                f"the filters of {source} are for {before.max_len} positions and would be stretched to {after.max_len}: set the mixer's "
                f"filter.filter_len to {before.max_len} to continue them, or to {after.max_len} to stretch them"
            )
