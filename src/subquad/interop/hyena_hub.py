"""HyenaDNA as on the Hugging Face hub (LongSafari/hyenadna-...-hf), by the names and options of its ``modeling_hyena.py``.

It computes what the standalone file does, under the prefix ``hyena.``. Its output layer, ``lm_head.weight``, is not tied to the embedding;
a classifier has ``score.weight``, without a bias, on the last vector. The frequency of the sines is there once, and ``pos_emb.z`` is always
a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from subquad.config import with_changes
from subquad.interop.hyena import Backbone, DNAOptions, Plan, backbone
from subquad.interop.keys import Key, Keys, StateDict
from subquad.interop.options import TRANSFORMERS, LabelOptions, read_options
from subquad.models.language_model import LanguageModelConfig

PREFIX = "hyena."
MODEL_TYPE = "hyenadna"

_FIXED = {"hyena_order": 2, "short_filter_order": 3, "layer_norm_epsilon": 1e-5, "use_bias": True, "tie_word_embeddings": False}
# Dropout and rates are for training; the frequency is read from the weights.
IGNORED = (
    *("embed_dropout", "hyena_dropout", "hyena_filter_dropout", "train_freq", "activation_freq", "problem_type", "num_layers"),
    *("classifier_dropout", "tokenizer_class", "chunk_size_feed_forward"),
    *TRANSFORMERS,
)


class HubOptions(LabelOptions):
    """Options of its ``HyenaConfig`` that say what it computes, with their defaults."""

    vocab_size: int = Field(12, gt=0)
    d_model: int = Field(256, gt=0)
    d_inner: int | None = Field(None, gt=0)
    n_layer: int = Field(12, gt=0)
    max_seq_len: int = Field(1024, gt=0)
    emb_dim: int = Field(3, ge=3)
    filter_order: int = Field(64, gt=0)
    num_inner_mlps: int = Field(2, ge=0)
    pad_vocab_size_multiple: int = Field(8, gt=0)


class HubDNA(Backbone):
    """ids (B, T) -> logits (B, T, V), those at t for position t + 1; with ``classes`` the scores (B, C) of the last vector; hidden vectors
    (B, T, D) where the checkpoint has no output layer, and then as a language model the embedding is that. Padding is read like any id."""

    def __init__(self, config: LanguageModelConfig, classes: tuple[str, ...]) -> None:
        super().__init__(config)
        self.classes = classes
        outputs = len(classes) or (0 if config.tied else config.vocab)
        self.head = nn.Linear(config.stack.dim, outputs, bias=False) if outputs else None

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = super().forward(input_ids)
        if self.head is None:
            return hidden
        outputs: Tensor = self.head(hidden[:, -1] if self.classes else hidden)
        return outputs


def is_hub(config: Mapping[str, Any], state: StateDict) -> bool:
    """Whether a HyenaDNA is the one of the hub."""
    return config.get("model_type") == MODEL_TYPE or any(name.startswith(PREFIX) for name in state)


def hub_dna(config: Mapping[str, Any], state: StateDict) -> Plan:
    """HyenaDNA of the hub: the causal model, the classifier of sequences, or the backbone alone, as the weights say."""
    options = read_options(HubOptions, config, _FIXED, IGNORED)
    layer = {
        "l_max": options.max_seq_len,
        "emb_dim": options.emb_dim,
        "filter_order": options.filter_order,
        "num_inner_mlps": options.num_inner_mlps,
        "shift": 0.05,
    }
    names = ("vocab_size", "d_model", "d_inner", "n_layer", "pad_vocab_size_multiple")
    ours, keys = backbone(DNAOptions(layer=layer, **{name: getattr(options, name) for name in names}), state, "order first", {}, ())
    keys += Keys([], optional=[copy for key in keys.keys for copy in key.copies])
    classes: tuple[str, ...] = ()
    if not state or any(name.startswith(PREFIX) for name in state):
        keys = keys.under(PREFIX, "")
    if "score.weight" in state:
        classes = options.labels
        keys += Keys([Key("score.weight", "head.weight")])
    elif not state or "lm_head.weight" in state:
        ours = with_changes(ours, {"tied": False})
        keys += Keys([Key("lm_head.weight", "head.weight")])
    return partial(HubDNA, ours, classes), keys
