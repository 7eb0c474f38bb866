"""Models of ours from official Hyena language models and HyenaDNA."""

from __future__ import annotations

import torch
from torch import nn

from subquad.interop.hyena import Backbone, OfficialDNA
from subquad.interop.hyena_hub import HubDNA
from subquad.models.base import Model
from subquad.models.classifier import Classifier, ClassifierConfig
from subquad.models.language_model import LanguageModel


def as_model(module: nn.Module) -> Model:
    """A model of ours with the same weights: a language model, or of a HyenaDNA with a head a classifier.

    A language model's logits at position t are the official ones at t - 1; position 0 is uniform. HyenaDNA's standalone file has no output
    layer: its logits are read from the embedding, as in its pretraining. Classes without names are numbered; one alone is a number.
    """
    assert isinstance(module, Backbone)
    state = module.state_dict()
    classes: tuple[str, ...] = ()
    if isinstance(module, OfficialDNA) and module.head is not None:
        classes = tuple(str(index) for index in range(module.head.out_features))
    elif isinstance(module, HubDNA):
        classes = module.classes
    with torch.device("meta"):
        model: Model = LanguageModel(module.config)
        if classes:
            labels = {"problem_type": "regression"} if len(classes) == 1 else {"classes": classes}
            pooling = "last" if isinstance(module, HubDNA) else "mean"
            model = Classifier(ClassifierConfig.model_validate({"backbone": module.config, "pooling": pooling, **labels}))
    if classes:
        state = {name if name.startswith("head.") else f"backbone.{name}": value for name, value in state.items()}
        weight = state["head.weight"]
        state.setdefault("head.bias", weight.new_zeros(len(weight)))
    model.load_state_dict(state, assign=True)
    return model.eval()
