"""Official Monarch Mixer checkpoints (HazyResearch/m2): block-diagonal maps, the sequence mixer, M2-BERT and its retrieval models.

The modules reproduce official behaviour, output for output: the mixers read padding like any other id. All are built from layers of this
library; what differs is how weights are named and laid out:

    short filter         (C, 1, K), a correlation: its last tap is lag 0; here (C, K), lag 0 first
    frequency of sines   (1, F) under the name of every sine of both directions, one tensor here
    what a filter passes (D,) under the name of its ``bias``, here a skip beside the filter
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from subquad.config import Config, parse, with_changes
from subquad.interop.filters import FIRST, RATES, ROW, SHORT, has_table
from subquad.interop.keys import Constant, Key, Keys, StateDict, weight_and_bias
from subquad.interop.options import TRANSFORMERS, LabelOptions, read_options
from subquad.layers.m2_bert_mixer import M2BertMixer, M2BertMixerConfig
from subquad.layers.monarch_linear import MonarchLinear
from subquad.models.classifier import Classifier, ClassifierConfig
from subquad.models.encoder import Encoder, EncoderConfig

Plan = tuple[Callable[[], nn.Module], Keys]

MASK = 103  # [MASK] of bert-base-uncased, whose vocabulary M2-BERT has
_DEPTH = 4  # linear maps of a filter's network

_FIXED = {
    "monarch_mixer_sequence_mixing": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "use_learnable_monarch": False,
    "sequence_token_planting": False,
    "attention_pooling": False,
}
# For training, for fused kernels that compute the same, for attention that is not there, for loading, notes of transformers, or read by
# nobody.
IGNORED = (
    *("long_conv_kernel_learning_rate", "hyena_wd", "hyena_filter_dropout", "attention_probs_dropout_prob"),
    *("use_flash_fft", "use_flash_mm", "num_attention_heads", "alibi_starting_size", "pretrained_checkpoint", "precision"),
    *("expand_positional_embeddings", "position_embedding_type", "performing_BEIR_evaluation"),
    *(name for name in TRANSFORMERS if name != "pad_token_id"),
)
_MIXER_IGNORED = ("hyena_kernel_lr", "hyena_wd", "hyena_filter_dropout", "use_flash_fft", "use_flashfftconv", "dropout")


class BlockDiagonalOptions(Config):
    """Options of the official ``BlockdiagLinear``."""

    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    nblocks: int = Field(4, gt=0)
    bias: bool = True
    shuffle: bool = False


class FilterOptions(Config):
    """Options of the sequence mixer that both official constructors share, with their defaults."""

    hyena_w: float = Field(10.0, gt=0)
    hyena_w_mod: float = Field(1.0, gt=0)
    hyena_emb_dim: int = Field(5, ge=3)
    hyena_filter_order: int = Field(128, gt=0)
    hyena_lr_pos_emb: float = 1e-5
    hyena_training_additions: bool = False
    bidirectional: bool = True
    residual_long_conv: bool = False


class MixerOptions(FilterOptions):
    """Options of the official ``MonarchMixerSequenceMixing``."""

    d_model: int = Field(gt=0)
    l_max: int = Field(128, gt=0)


class BertOptions(FilterOptions, LabelOptions):
    """Options of M2-BERT's config."""

    vocab_size: int = Field(30_522, gt=0)
    effective_vocab_size: int | None = Field(None, gt=0)
    hidden_size: int = Field(768, gt=0)
    num_hidden_layers: int = Field(12, gt=0)
    intermediate_size: int = Field(3072, gt=0)
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    max_position_embeddings: int = Field(512, gt=0)
    long_conv_l_max: int = Field(128, gt=0)
    use_positional_encodings: bool = True
    use_glu_mlp: bool = True
    use_monarch_mlp: bool = False
    monarch_mlp_nblocks: int = Field(4, gt=0)
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    classifier_dropout: float | None = Field(None, ge=0, lt=1)
    pool_all: bool = False
    use_cls_token: bool = False
    gather_sentence_embeddings: bool = False
    use_normalized_embeddings: bool = False

    @property
    def vocab(self) -> int:
        """The rows of the embedding: a multiple of 8."""
        return self.effective_vocab_size or self.vocab_size + -self.vocab_size % 8

    @property
    def one_answer(self) -> bool:
        """Whether a text has one class or one number, not several."""
        several = {"multi_label_classification": True, "regression": len(self.labels) > 1}
        return not several.get(str(self.problem_type), False)


class OfficialBert(nn.Module):
    """ids (B, T) -> MLM logits (B, T, V), class scores (B, labels) or embeddings (B, D); only the mean over positions heeds the mask.

    ``one_answer`` says that the scores are of classes that exclude each other, or of one number.
    """

    def __init__(self, config: EncoderConfig | ClassifierConfig, one_answer: bool = True) -> None:
        super().__init__()
        self.model = config.build()
        self.one_answer = one_answer
        self.encoder.embedding.padding_idx = 0  # the row of [PAD] takes no gradient as an input

    @property
    def encoder(self) -> Encoder:
        encoder = encoder_in(self.model)
        assert encoder is not None
        return encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        y: Tensor = self.encoder(input_ids, attention_mask, token_type_ids)
        return self.model.head(self.model.dropout(y)) if isinstance(self.model, Classifier) else y


def block_diagonal_linear(config: Mapping[str, Any], state: StateDict) -> Plan:
    """``BlockdiagLinear``."""
    options = read_options(BlockDiagonalOptions, config, {}, ())
    sizes = (options.in_features, options.out_features)
    names = ("weight", "bias") if options.bias else ("weight",)
    return partial(MonarchLinear, *sizes, 1, options.nblocks, options.bias, options.shuffle), Keys([Key(name, name) for name in names])


def mixer(config: Mapping[str, Any], state: StateDict) -> Plan:
    """``MonarchMixerSequenceMixing``."""
    options = read_options(MixerOptions, config, {"use_learnable_monarch": False}, _MIXER_IGNORED)
    table = _has_table(options, state, "", options.l_max)
    build = partial(M2BertMixer, _mixer_config(options, table), options.d_model, options.l_max)
    return build, _mixer_keys(options, options.l_max, table)


def bert(config: Mapping[str, Any], state: StateDict) -> Plan:
    """``BertForMaskedLM`` and ``BertForSequenceClassification``, whichever the weights are of."""
    options = read_options(BertOptions, config, _FIXED, IGNORED)
    return _masked_lm(options, state) if any(name.startswith("cls.") for name in state) else _classifier(options, state)


def bert_embedding(config: Mapping[str, Any], state: StateDict) -> Plan:
    """The retrieval models: ``BertForSequenceClassification``, of which the vector before the classifier is the embedding."""
    options = read_options(BertOptions, config, _FIXED, IGNORED)
    dim, labels = options.hidden_size, len(options.labels)
    unused = {"classifier.weight": (labels, dim), "classifier.bias": (labels,)}
    values, keys = _encoder(options, state)
    keys += Keys([], [Constant(name, torch.empty(shape, device="meta")) for name, shape in unused.items()], optional=unused)
    keys += _pooler_keys(options)
    pooling = {**_pooling(options), "normalized": options.use_normalized_embeddings}
    return _plan({**values, "head": "none", "pooling": pooling}, keys)


def as_model(module: nn.Module) -> Encoder | Classifier:
    """The model of ours inside, whose mixers keep padding out.

    Raises ``ValueError`` for a head of several labels or numbers a text, of which a classifier gives one.
    """
    assert isinstance(module, OfficialBert)
    if not module.one_answer:
        raise ValueError("this head gives several labels or values per text, but a run gives one: use subquad.from_official in Python")
    module.encoder.embedding.padding_idx = None
    set_padding(module.model, "masked")
    return module.model


def encoder_in(model: nn.Module) -> Encoder | None:
    """A model that is an encoder, or the encoder that a classifier reads with; None for others."""
    inner = model.backbone if isinstance(model, Classifier) else model
    return inner if isinstance(inner, Encoder) else None


def set_padding(model: nn.Module, padding: Literal["masked", "official"]) -> None:
    """Says in the configs of an encoder, or of a classifier with one, whether padding may change results."""
    encoder = encoder_in(model)
    assert encoder is not None
    encoder.config = with_changes(encoder.config, {"padding": padding})
    if isinstance(model, Classifier):
        model.config = with_changes(model.config, {"backbone.padding": padding})


def _masked_lm(options: BertOptions, state: StateDict) -> Plan:
    values, keys = _encoder(options, state, copies=("cls.predictions.decoder.weight",))
    head = Keys(
        [
            *weight_and_bias("transform.dense", "dense"),
            *weight_and_bias("transform.LayerNorm", "norm"),
            Key("decoder.bias", "bias"),
        ]
    )
    keys += head.under("cls.predictions.", "head.") + Keys([], optional=["cls.predictions.decoder.weight"])
    return _plan({**values, "head": "mlm", "mask_token": MASK if options.vocab > MASK else None}, keys)


def _classifier(options: BertOptions, state: StateDict) -> Plan:
    values, keys = _encoder(options, state)
    keys = (keys + _pooler_keys(options)).under("", "backbone.") + Keys(weight_and_bias("classifier", "head"))
    config = {
        "backbone": {**values, "kind": "encoder", "head": "none", "pooling": _pooling(options)},
        "dropout": options.hidden_dropout_prob if options.classifier_dropout is None else options.classifier_dropout,
        **({"problem_type": "regression"} if len(options.labels) == 1 else {"classes": options.labels}),
    }
    return partial(OfficialBert, parse(ClassifierConfig, config), options.one_answer), keys.under("", "model.")


def _plan(values: Mapping[str, Any], keys: Keys) -> Plan:
    return partial(OfficialBert, parse(EncoderConfig, values)), keys.under("", "model.")


def _pooling(options: BertOptions) -> dict[str, Any]:
    """``use_cls_token`` takes the first vector as it is, else the pooler comes after the mean or the first."""
    over = "mean" if options.pool_all and not options.use_cls_token else "first"
    return {"over": over, "dense": not options.use_cls_token}


def _pooler_keys(options: BertOptions) -> Keys:
    if not options.use_cls_token:
        return Keys(weight_and_bias("bert.pooler.dense", "pooler"))
    dim = options.hidden_size
    unused = {"bert.pooler.dense.weight": (dim, dim), "bert.pooler.dense.bias": (dim,)}
    return Keys([], [Constant(name, torch.empty(shape, device="meta")) for name, shape in unused.items()], optional=unused)


def _encoder(options: BertOptions, state: StateDict, copies: tuple[str, ...] = ()) -> tuple[dict[str, Any], Keys]:
    """Our config but for what comes after the last layer, and where its weights are; ``copies`` are those of the word embedding."""
    length, dim = options.long_conv_l_max, options.hidden_size
    if options.use_positional_encodings and options.max_position_embeddings != length:
        raise ValueError(
            f"max_position_embeddings={options.max_position_embeddings} is not supported with long_conv_l_max={length}: they are one length"
        )
    names = [f"bert.encoder.layer.{index}." for index in range(options.num_hidden_layers)]
    table = any(_has_table(options, state, name + "attention.", length) for name in names)
    stack = {
        "dim": dim,
        "depth": options.num_hidden_layers,
        "mixer": _mixer_config(options, table).model_dump(mode="json"),
        "feedforward": {
            "expand": options.intermediate_size / dim,
            "activation": "gelu",
            "gated": options.use_glu_mlp,
            "blocks": options.monarch_mlp_nblocks if options.use_monarch_mlp else 1,
            "up_bias": False,
        },
        "norm": "after",
        "norm_eps": 1e-12,
        "mixer_residual": False,
        "dropout": options.hidden_dropout_prob,
    }
    values = {
        "vocab": options.vocab,
        "max_len": length,
        "stack": stack,
        "positions": "learned" if options.use_positional_encodings else "none",
        "types": 2,
        "padding": "official",
    }
    keys = Keys(
        [
            Key("token_type_embeddings.weight", "types.weight"),
            *weight_and_bias("LayerNorm", "norm"),
        ]
    )
    if options.use_positional_encodings:
        keys += Keys(
            [Key("position_embeddings.weight", "positions.weight")],
            [Constant("position_ids", torch.arange(length)[None])],
            optional=["position_ids"],
        )
    keys = Keys([Key("bert.embeddings.word_embeddings.weight", "embedding.weight", copies=copies)]) + keys.under("bert.embeddings.", "")
    mixer_keys = _mixer_keys(options, length, table)  # once: its constants are as long as the context
    for index, name in enumerate(names):
        layer = mixer_keys.under("attention.", "mixer.") + Keys(
            [
                Key("mlp.gated_layers.weight", "feedforward.up.weight"),
                *weight_and_bias("mlp.wo", "feedforward.down"),
                *weight_and_bias("mlp.layernorm", "feedforward_norm"),
            ]
        )
        keys += layer.under(name, f"stack.blocks.{index}.")
    return values, keys


def _has_table(options: FilterOptions, state: StateDict, prefix: str, length: int) -> bool:
    return has_table(state, f"{prefix}filter_fn.pos_emb.z", length, options.hyena_emb_dim, options.hyena_lr_pos_emb)


def _mixer_config(options: FilterOptions, table: bool) -> M2BertMixerConfig:
    filter_ = {
        "features": options.hyena_emb_dim,
        "width": options.hyena_filter_order,
        "depth": _DEPTH,
        "frequency": options.hyena_w,
        "frequency_scale": options.hyena_w_mod,
        "learned_features": table,
        "init_std": 0.02,
    }
    values = {
        "two_sided": options.bidirectional,
        "residual": options.residual_long_conv,
        "norm": options.hyena_training_additions,
        "filter": filter_,
    }
    return parse(M2BertMixerConfig, values)


def _mixer_keys(options: FilterOptions, length: int, table: bool) -> Keys:
    keys = Keys(
        [
            *weight_and_bias("in_linear", "project"),
            *weight_and_bias("out_linear", "out"),
            Key("short_filter.weight", "short.weight", SHORT),
            Key("short_filter.bias", "short.bias"),
            Key("filter_fn.bias", "skip.weight", ROW),
        ]
    )
    if options.hyena_training_additions:
        keys += Keys(weight_and_bias("layernorm", "norm"))
    keys += _filter_keys(options, length, table).under("filter_fn.", "filter.")
    if options.residual_long_conv:
        keys += Keys([Key("filter_fn2.bias", "residual_skip.weight", ROW)])
        keys += _filter_keys(options, length, table).under("filter_fn2.", "residual.")
    return keys


def _filter_keys(options: FilterOptions, length: int, table: bool) -> Keys:
    networks = {"implicit_filter": ""} | ({"implicit_filter_rev": "reverse_"} if options.bidirectional else {})
    last = 2 * (_DEPTH - 1)
    sines = [f"{network}.{index}.freq" for network in networks for index in range(1, last, 2)]
    keys = [Key(sines[0], "frequency", FIRST, tuple(sines[1:])), Key("modulation.deltas", "rates", RATES)]
    for network, ours in networks.items():
        for index in range(_DEPTH - 1):
            keys += weight_and_bias(f"{network}.{2 * index}", f"{ours}hidden.{index}")
        keys.append(Key(f"{network}.{last}.weight", f"{ours}last.weight"))
    constants = [Constant("pos_emb.t", torch.linspace(0, 1, length)[None, :, None])]
    if table:
        keys.append(Key("pos_emb.z", "table", FIRST))
    else:
        constants.append(Constant("pos_emb.z", torch.empty(1, length, options.hyena_emb_dim, device="meta")))
    return Keys(keys, constants)
