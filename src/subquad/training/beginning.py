"""How a run begins: the objective that a config asks for, with its model and data, and the weights of another run to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from subquad.data.corpus import Corpus
from subquad.data.labelled import Labelled, read_labelled
from subquad.data.pairs import read_pairs
from subquad.layers.long_filter import ImplicitFilter
from subquad.models import build_model
from subquad.models.base import Model, causal_model
from subquad.models.classifier import Classifier
from subquad.models.encoder import Encoder
from subquad.models.extend_context import extend_context
from subquad.run_folder import load, state_shapes
from subquad.training.classification import Classification, Regression
from subquad.training.config import TrainConfig, differences
from subquad.training.contrastive import Contrast
from subquad.training.masked import MaskedPrediction
from subquad.training.objectives import Objective, Prediction

CLASSIFIER, ENCODER = "classifier", "encoder"
NAMED = 6  # settings that an error names


def build_objective(config: TrainConfig) -> tuple[TrainConfig, Objective]:
    """A freshly initialised model with its data, and the config with the classes that they have."""
    data = config.data
    _check_read(config)
    if learns_pairs(config.model):
        return config, _contrast(config)
    if config.model["kind"] != CLASSIFIER:
        if data.valid or data.test:
            raise ValueError("data.valid and data.test are for tables of labelled texts or pairs: leave them out, data.fractions splits")
        corpus = Corpus.open(data.paths, image=data.image, form=data.format)
        torch.manual_seed(config.seed)
        model = build_model(config.model)
        if isinstance(model, Encoder):
            _check_no_samples(config, "an encoder")
            return config, MaskedPrediction(model, corpus)
        return config, Prediction(causal_model(model, "training on files"), corpus)
    if data.image is not None or data.format != "raw":
        raise ValueError("a classifier reads tables of texts and labels: leave out data.image and data.format")
    _check_no_samples(config, "a classifier")
    seed = config.seed if data.split_seed is None else data.split_seed
    numbers = config.model["problem_type"] == "regression"
    texts = read_labelled(data.paths, data.valid, data.test, data.columns, data.fractions, seed, config.model["classes"], numbers)
    found = _scale(texts) if numbers else {"classes": list(texts.classes)}
    config = config.model_copy(update={"model": {**config.model, **found}})
    torch.manual_seed(config.seed)
    classifier = build_model(config.model)
    assert isinstance(classifier, Classifier)
    return config, Regression(classifier, texts) if numbers else Classification(classifier, texts)


def learns_pairs(model: Mapping[str, Any]) -> bool:
    """Whether a model of this config is an encoder that gives vectors, which learns from pairs."""
    return bool(model["kind"] == ENCODER and model["head"] == "none")


def _contrast(config: TrainConfig) -> Contrast:
    data = config.data
    if data.image is not None or data.format != "raw":
        raise ValueError('an encoder with head="none" reads tables of queries and passages: leave out data.image and data.format')
    _check_no_samples(config, "an encoder")
    seed = config.seed if data.split_seed is None else data.split_seed
    pairs = read_pairs(data.paths, data.valid, data.test, data.pairs, data.fractions, seed)
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    assert isinstance(model, Encoder)
    return Contrast(model, pairs)


def _scale(texts: Labelled) -> dict[str, float]:
    """The mean and the deviation of the numbers that are trained on."""
    numbers = np.array([float(str(example.label)) for example in texts.train])
    if (deviation := float(numbers.std())) == 0:
        raise ValueError(f"all texts of the training part have the number {numbers[0]:g}, so there is nothing to learn: give other labels")
    return {"target_mean": float(numbers.mean()), "target_std": deviation}


def start_from(model: Model, config: TrainConfig) -> None:
    """Takes over another run's weights: all of them, or a language model's or an encoder's as the backbone of a classifier.

    An encoder with a longer context than the run's is begun by ``extend_context``. Raises ``ValueError`` when its model has other shapes,
    with the keys that make it so, and where nobody says what becomes of its filters.
    """
    assert config.init is not None
    start = load(config.init)
    assert isinstance(start, Model)
    there, here = start, model
    if isinstance(model, Classifier) and state_shapes(start) != state_shapes(model):
        there, here = start.backbone if isinstance(start, Classifier) else start, model.backbone
    if isinstance(there, Encoder) and isinstance(here, Encoder):
        there = _as_long(_with_head_of(there, here), here, config.init)
    if state_shapes(there) != state_shapes(here):
        raise ValueError(f"{config.init} holds another model, they differ in {_difference(there, here)}")
    _check_same_filters(there, here, config.init)
    here.load_state_dict(there.state_dict())
    model.tokenizer = start.tokenizer


def _difference(there: Model, here: Model) -> str:
    """In which settings two models differ, the first few, and the remedy."""
    known, wanted = (one.config.model_dump(mode="json") for one in (there, here))
    if known["kind"] != wanted["kind"]:
        return f"kind, {known['kind']} there and {wanted['kind']} here: start from a run of such a model"
    changed = differences(TrainConfig(model=wanted), TrainConfig(model=known))
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return f"{', '.join(changed[:NAMED])}{more}: give the same values to start from its weights"


def _with_head_of(there: Encoder, here: Encoder) -> Encoder:
    """The encoder without its head where the other has none; a pooler that it lacks begins as the other's."""
    if here.config.head != "none" or there.config.head == "none":
        return there
    bare = there.config.model_copy(update={"head": "none", "pooling": here.config.pooling}).build()
    fresh = {name: tensor for name, tensor in here.state_dict().items() if name.startswith("pooler.")}
    kept = {name: tensor for name, tensor in there.state_dict().items() if not name.startswith("head.")}
    bare.load_state_dict(fresh | kept if bare.pooler is not None else kept)
    return bare


def _as_long(there: Encoder, here: Encoder, init: str) -> Encoder:
    """The encoder with the other's context, where that is longer."""
    if here.max_len <= there.max_len:
        return there
    _check_same_filters(there, here, init)
    filters = [one.config.filter_len for one in here.modules() if isinstance(one, ImplicitFilter)]
    return extend_context(there, here.max_len, "stretched" if here.max_len in filters else "continued")


def _check_same_filters(there: nn.Module, here: nn.Module, init: str) -> None:
    """Raises ``ValueError`` where filters of another length would be stretched without anybody having asked for it."""
    pairs = [[one for one in model.modules() if isinstance(one, ImplicitFilter)] for model in (there, here)]
    for old, new in zip(*pairs, strict=False):  # models that differ otherwise are refused elsewhere
        if old.max_len != new.max_len and new.config.filter_len is None:
            raise ValueError(
                f"the filters of {init} are for {old.max_len} positions and would be stretched to {new.max_len}: set the mixer's "
                f"filter.filter_len to {old.max_len} to continue them as they are, or to {new.max_len} to stretch them"
            )


def _check_read(config: TrainConfig) -> None:
    """Raises ``ValueError`` for settings that this objective would never read."""
    kind, pairs = config.model["kind"], learns_pairs(config.model)
    fresh = TrainConfig(model=config.model)
    if not pairs and (config.contrast != fresh.contrast or config.data.pairs != fresh.data.pairs):
        raise ValueError("contrast and data.pairs are for an encoder that learns from pairs: set model.head=none, or leave them out")
    if (kind != ENCODER or pairs) and config.mask != fresh.mask:
        raise ValueError("mask is for an encoder that guesses what is hidden: leave it out, or train one on files")
    if kind != CLASSIFIER and config.data.columns != fresh.data.columns:
        raise ValueError(f"data.columns is for labelled texts: train a {CLASSIFIER}, or leave it out")


def _check_no_samples(config: TrainConfig, what: str) -> None:
    if config.eval.sample_bytes:
        raise ValueError(f"{what} writes nothing, got eval.sample_bytes={config.eval.sample_bytes}: leave it out")
