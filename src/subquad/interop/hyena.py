"""Official Hyena checkpoints: operators, language models (HazyResearch/safari) and HyenaDNA (HazyResearch/hyena-dna).

The modules reproduce official behaviour, output for output: an operator truncates its input at ``l_max``, and the logits at position t are
for position t + 1. All are built from layers of this library; what differs is how weights are named and laid out:

    filter channels      (order - 1, D) in the standalone files and here, (D, order - 1) in safari's own operator
    short filter         (C, 1, K), a correlation: its last tap is lag 0; here (C, K), lag 0 first
    frequency of sines   (1, F) under the name of every sine, one tensor here
    features of position a parameter (``lr_pos_emb`` not 0), here ``learned_features``; or a buffer, computed here
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from subquad.config import Config, parse, with_changes
from subquad.interop.filters import FIRST, RATES, SHORT, has_table
from subquad.interop.keys import SAME, Constant, Key, Keys, Layout, StateDict, weight_and_bias
from subquad.interop.options import read_options
from subquad.layers.hyena import HyenaConfig
from subquad.layers.stack import Stack
from subquad.models.language_model import LanguageModelConfig

FilterLayout = Literal["order first", "dim first"]
Plan = tuple[Callable[[], nn.Module], Keys]

_HYENA_FIXED = {
    "_name_": "hyena",
    "num_heads": 1,
    "num_blocks": 1,
    "inner_factor": 1,
    "outer_mixing": False,
    "post_order_ffn": False,
    "activation": "id",
    "filter_cls": "hyena-filter",
    "jit_filter": False,
    "return_state": False,
    "bias": True,
    "use_bias": True,
}
# Learning rates and dropout are for training; the decay is read from deltas; fused kernels compute the same; nobody reads the last three.
HYENA_IGNORED = (
    *("lr", "wd", "modulation_lr", "dropout", "filter_dropout", "fast_decay_pct", "slow_decay_pct", "target"),
    *("fused_fft_conv", "fused_bias_fc", "use_flashfftconv", "linear_mixer", "local_order", "channels"),
)
_STANDALONE_IGNORED = ("short_filter_order", "normalized")  # the standalone files always take 3 taps and never normalize

_MODEL_FIXED = {"layer_norm_epsilon": 1e-5, "process_group": None}
MODEL_IGNORED = (
    *("embed_dropout", "initializer_cfg", "checkpoint_mixer", "checkpoint_mlp", "device", "dtype"),
    *("residual_in_fp32", "fused_mlp", "fused_dropout_add_ln", "sequence_parallel"),
)
_ATTENTION_FIXED = {"causal": True, "bias": True, "softmax_scale": None, "dwconv": False, "rotary_emb_dim": 0, "return_residual": False}
_ATTENTION_IGNORED = ("use_flash_attn", "fused_bias_fc", "checkpointing")


class OperatorOptions(Config):
    """Options of the official ``HyenaOperator`` that say what it computes, with their official defaults."""

    d_model: int = Field(gt=0)
    l_max: int = Field(gt=0)
    order: int = Field(2, ge=2)
    filter_order: int = Field(64, gt=0)
    emb_dim: int = Field(3, ge=3)
    w: float = Field(1.0, gt=0)
    num_inner_mlps: int = Field(2, ge=0)
    short_filter_order: int = Field(3, gt=0)
    modulate: bool = True
    normalized: bool = False
    shift: float = 0.0
    lr_pos_emb: float = 1e-5

    @field_validator("emb_dim")
    @classmethod
    def _odd(cls, emb_dim: int) -> int:
        if emb_dim % 2 == 0:
            raise ValueError("features are time and pairs of a cosine and a sine, so their number must be odd")
        return emb_dim


class AttentionOptions(Config):
    """Options of the official attention layer in a hybrid."""

    num_heads: int = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class ModelOptions(Config):
    """Options of the official language models."""

    d_model: int = Field(gt=0)
    n_layer: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    layer: dict[str, Any]
    d_inner: int | None = Field(None, gt=0)
    pad_vocab_size_multiple: int = Field(1, gt=0)
    attn_layer_idx: list[int] | None = None
    attn_cfg: dict[str, Any] | None = None
    max_position_embeddings: int = 0
    resid_dropout: float = Field(0.0, ge=0, lt=1)

    @property
    def vocab(self) -> int:
        """The rows of the embedding: a whole multiple."""
        return self.vocab_size + -self.vocab_size % self.pad_vocab_size_multiple


class DNAOptions(ModelOptions):
    """Options of HyenaDNA; its head gives scores of ``n_classes`` classes."""

    use_head: bool = False
    n_classes: int = Field(2, gt=0)


class OfficialOperator(nn.Module):
    """(B, L, D) -> (B, min(L, l_max), D): what comes after ``l_max`` is neither read nor answered."""

    def __init__(self, config: HyenaConfig, dim: int, max_len: int) -> None:
        super().__init__()
        self.mixer = config.build(dim, max_len)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mixer(x[:, : self.mixer.max_len])
        return y


class Backbone(nn.Module):
    """ids (B, T) -> hidden vectors (B, T, D) after the last norm. Raises ``ValueError`` when T exceeds ``l_max``.

    Its weights have the names that they have in a ``LanguageModel``.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.stack.dim)
        self.positions = nn.Embedding(config.max_len, config.stack.dim) if config.positions == "learned" else None
        self.stack = Stack(config.stack, config.max_len)

    def forward(self, input_ids: Tensor) -> Tensor:
        if input_ids.shape[1] > self.config.max_len:
            raise ValueError(f"{input_ids.shape[1]} ids exceed the {self.config.max_len} of the official model: cut them into windows")
        x = self.embedding(input_ids)
        hidden: Tensor = self.stack(x if self.positions is None else x + self.positions.weight[: x.shape[1]])
        return hidden


class OfficialLM(Backbone):
    """ids (B, T) -> logits (B, T, V); those at position t are for position t + 1."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return F.linear(super().forward(input_ids), self.embedding.weight)


class OfficialDNA(Backbone):
    """ids (B, T) -> hidden vectors (B, T, D), or with a head scores (B, classes) of their mean. Padding is read like any id."""

    def __init__(self, config: LanguageModelConfig, classes: int | None) -> None:
        super().__init__(config)
        self.head = None if classes is None else nn.Linear(config.stack.dim, classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = super().forward(input_ids)
        return hidden if self.head is None else self.head(hidden.mean(1))


def operator(config: Mapping[str, Any], state: StateDict) -> Plan:
    """Safari's own operator."""
    return _operator(config, state, "dim first")


def standalone_operator(config: Mapping[str, Any], state: StateDict) -> Plan:
    """The operator of safari's ``standalone_hyena.py``."""
    return _operator(config, state, "order first")


def language_model(config: Mapping[str, Any], state: StateDict) -> Plan:
    """Safari's language models, ``simple_lm`` and ``long_conv_lm``."""
    options = read_options(ModelOptions, config, _MODEL_FIXED, MODEL_IGNORED)
    ours, keys = backbone(options, state, "dim first", {}, ("lm_head.weight",))
    return partial(OfficialLM, ours), keys


def hyena_dna(config: Mapping[str, Any], state: StateDict) -> Plan:
    """HyenaDNA as in ``standalone_hyenadna.py``; a pretraining checkpoint's ``lm_head``, a copy of the embedding, may be there."""
    options = read_options(DNAOptions, config, _MODEL_FIXED, MODEL_IGNORED)
    ours, keys = backbone(options, state, "order first", {"shift": 0.05}, ("lm_head.weight",))
    keys += Keys([], optional=["lm_head.weight"])
    if options.use_head:
        keys += Keys([Key(f"head.output_transform.{part}", f"head.{part}") for part in ("weight", "bias")])
    return partial(OfficialDNA, ours, options.n_classes if options.use_head else None), keys


def _operator(config: Mapping[str, Any], state: StateDict, layout: FilterLayout) -> Plan:
    options = _operator_options(config, layout)
    table = has_table(state, "filter_fn.pos_emb.z", options.l_max, options.emb_dim, options.lr_pos_emb)
    build = partial(OfficialOperator, _hyena(options, table), options.d_model, options.l_max)
    return build, _hyena_keys(options, layout, table).under("", "mixer.")


def _operator_options(config: Mapping[str, Any], layout: FilterLayout, where: str = "") -> OperatorOptions:
    standalone = layout == "order first"
    ignored = (*HYENA_IGNORED, *(_STANDALONE_IGNORED if standalone else ()))
    options = read_options(OperatorOptions, config, _HYENA_FIXED, ignored, where)
    return with_changes(options, {"short_filter_order": 3, "normalized": False}) if standalone else options


def backbone(
    options: ModelOptions, state: StateDict, layout: FilterLayout, defaults: Mapping[str, Any], tied: tuple[str, ...]
) -> tuple[LanguageModelConfig, Keys]:
    """Our config of an official language model, and where its weights are; ``tied`` are official names of copies of the embedding."""
    layer = _operator_options({"d_model": options.d_model, **defaults, **options.layer}, layout, "layer.")
    if layer.d_model != options.d_model:
        raise ValueError(f"layer.d_model is {layer.d_model}, but the model's d_model {options.d_model}: they are one width")
    if options.max_position_embeddings not in (0, layer.l_max):
        raise ValueError(
            f"max_position_embeddings={options.max_position_embeddings} is not supported: expected 0, or {layer.l_max} as l_max"
        )
    attending = sorted(set(options.attn_layer_idx or ()))
    names = {index: f"backbone.layers.{index}.mixer." for index in range(options.n_layer) if index not in attending}
    tables = (f"{name}filter_fn.pos_emb.z" for name in names.values())
    table = any(has_table(state, name, layer.l_max, layer.emb_dim, layer.lr_pos_emb) for name in tables)
    attention = {}
    if attending:
        heads = read_options(AttentionOptions, options.attn_cfg or {}, _ATTENTION_FIXED, _ATTENTION_IGNORED, "attn_cfg.")
        attention = {"kind": "attention", "heads": heads.num_heads, "rotary": False, "dropout": heads.dropout}
    stack = {
        "dim": options.d_model,
        "depth": options.n_layer,
        "mixer": _hyena(layer, table),
        "overrides": dict.fromkeys(attending, attention),
        "feedforward": {"expand": (options.d_inner or 4 * options.d_model) / options.d_model, "activation": "gelu_tanh"},
        "dropout": options.resid_dropout,
    }
    positions = options.max_position_embeddings > 0
    values = {
        "vocab": options.vocab,
        "max_len": layer.l_max,
        "init_std": 0.02,
        "stack": stack,
        "positions": "learned" if positions else "none",
        "start": "none",
        "scale_residual": True,
    }
    keys = Keys(
        [
            Key("backbone.embeddings.word_embeddings.weight", "embedding.weight", copies=tied),
            *weight_and_bias("backbone.ln_f", "stack.norm"),
        ]
    )
    if positions:
        keys += Keys([Key("backbone.embeddings.position_embeddings.weight", "positions.weight")])
    hyena = _hyena_keys(layer, layout, table)  # once: its constants are as long as the context
    for index in range(options.n_layer):
        keys += _block_keys(index, hyena if index in names else _attention_keys())
    return parse(LanguageModelConfig, values), keys


def _block_keys(index: int, mixer: Keys) -> Keys:
    block = mixer.under("mixer.", "mixer.") + Keys(
        [
            *weight_and_bias("norm1", "mixer_norm"),
            *weight_and_bias("norm2", "feedforward_norm"),
            *weight_and_bias("mlp.fc1", "feedforward.up"),
            *weight_and_bias("mlp.fc2", "feedforward.down"),
        ]
    )
    return block.under(f"backbone.layers.{index}.", f"stack.blocks.{index}.")


def _attention_keys() -> Keys:
    return Keys([*weight_and_bias("Wqkv", "qkv"), *weight_and_bias("out_proj", "out")])


def _hyena(options: OperatorOptions, table: bool) -> HyenaConfig:
    filter_ = {
        "features": options.emb_dim,
        "width": options.filter_order,
        "depth": options.num_inner_mlps + 2,
        "frequency": options.w,
        "learned_features": table,
        "window": {"shift": options.shift} if options.modulate else None,
        "normalized": options.normalized,
    }
    return parse(HyenaConfig, {"order": options.order, "short_kernel": options.short_filter_order, "filter": filter_})


def _hyena_keys(options: OperatorOptions, layout: FilterLayout, table: bool) -> Keys:
    dim, filters, depth = options.d_model, options.order - 1, options.num_inner_mlps + 2
    channels = _channels(filters, dim, layout)
    network, last = "filter_fn.implicit_filter", 2 * (depth - 1)
    keys = [
        *weight_and_bias("in_proj", "project"),
        *weight_and_bias("out_proj", "out"),
        Key("short_filter.weight", "short.weight", SHORT),
        Key("short_filter.bias", "short.bias"),
        Key("filter_fn.bias", "skip.weight", channels.then(Layout(lambda x: x.reshape(filters, dim), lambda x: x.flatten()))),
        *(key for index in range(depth - 1) for key in weight_and_bias(f"{network}.{2 * index}", f"filter.hidden.{index}")),
        Key(f"{network}.{last}.weight", "filter.last.weight", channels),
        Key(
            f"{network}.1.freq",
            "filter.frequency",
            FIRST,
            tuple(f"{network}.{index}.freq" for index in range(3, last, 2)),
        ),
    ]
    constants = [Constant("filter_fn.pos_emb.t", torch.linspace(0, 1, options.l_max)[None, :, None])]
    if table:
        keys.append(Key("filter_fn.pos_emb.z", "filter.table", FIRST))
    else:
        constants.append(Constant("filter_fn.pos_emb.z", torch.empty(1, options.l_max, options.emb_dim, device="meta")))
    if options.modulate:
        keys.append(Key("filter_fn.modulation.deltas", "filter.rates", RATES.then(channels)))
    else:
        constants.append(Constant("filter_fn.modulation.deltas", torch.empty(1, 1, filters * dim, device="meta")))
    return Keys(keys, constants)


def _channels(filters: int, dim: int, layout: FilterLayout) -> Layout:
    """The order of filter channels, the first dimension of a tensor; here all of the first filter come first."""
    if layout == "order first":
        return SAME
    return Layout(
        lambda x: x.reshape(dim, filters, -1).transpose(0, 1).reshape(x.shape),
        lambda x: x.reshape(filters, dim, -1).transpose(0, 1).reshape(x.shape),
    )
