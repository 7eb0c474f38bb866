"""Official checkpoints as modules: ``from_official(kind, config, state)``. A new kind is one line in ``KINDS``.

The config has the official names, the state is the official state dict. The module reproduces official behaviour, output for output,
and is built from the layers of this library. ``interop/convert.py`` converts whole models to models of this library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from subquad.config import suggest
from subquad.interop import hyena, hyena_hub, m2_bert, monarch
from subquad.interop.hyena_model import as_model
from subquad.interop.keys import Keys, StateDict
from subquad.interop.unwrap import unwrap
from subquad.models.base import Model
from subquad.parsing import check_sizes

LAYERS = ("n_layer", "num_hidden_layers", "num_inner_mlps", "order")  # options that count layers
SMALL = 1 << 20  # sizes up to this are built for any weights


@dataclass(frozen=True)
class Kind:
    """``plan`` says, of a config and a state, what builds the module and where its tensors are; ``model`` makes a model of ours of the
    filled module, for kinds that are whole models, which read text with ``tokenizer`` where no other is given; ``ignored`` are official
    options without effect here."""

    plan: Callable[[Mapping[str, Any], StateDict], tuple[Callable[[], nn.Module], Keys]]
    model: Callable[[nn.Module], Model] | None = None
    tokenizer: str | None = None
    ignored: frozenset[str] = frozenset()


def _dna(config: Mapping[str, Any], state: StateDict) -> tuple[Callable[[], nn.Module], Keys]:
    """HyenaDNA by either of its names."""
    return (hyena_hub.hub_dna if hyena_hub.is_hub(config, state) else hyena.hyena_dna)(config, state)


_HYENA_IGNORED = frozenset((*hyena.MODEL_IGNORED, *hyena.HYENA_IGNORED))
_BERT_IGNORED = frozenset(m2_bert.IGNORED)

KINDS = {
    "hyena-operator": Kind(hyena.operator),
    "hyena-operator-standalone": Kind(hyena.standalone_operator),
    "hyena-lm": Kind(hyena.language_model, as_model, ignored=_HYENA_IGNORED),
    "hyena-dna": Kind(_dna, as_model, "dna", _HYENA_IGNORED | frozenset(hyena_hub.IGNORED)),
    "block-diagonal-linear": Kind(m2_bert.block_diagonal_linear),
    "monarch-linear": Kind(monarch.linear),
    "m2-mixer": Kind(m2_bert.mixer),
    "m2-bert": Kind(m2_bert.bert, m2_bert.as_model, ignored=_BERT_IGNORED),
    "m2-bert-embedding": Kind(m2_bert.bert_embedding, m2_bert.as_model, ignored=_BERT_IGNORED),
}


def from_official(kind: str, config: Mapping[str, Any], state: Mapping[str, Any]) -> nn.Module:
    """The module of an official config and state dict, in eval mode; tensors keep their type and device, meta tensors included.

    ``kind`` is one of ``KINDS``. Raises ``ValueError`` for another kind, options that are unknown or not supported, and a state that does
    not fit them, with the list of missing, unexpected and reshaped tensors.
    """
    return official_module(kind, config, state)[0]


def official_module(kind: str, config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[nn.Module, Keys]:
    """The same, with the table of its keys, which also writes tensors of the module (weights, gradients) under official names."""
    tensors, _ = unwrap(state)
    plan = kind_of(kind).plan
    _check_sizes(config, tensors)
    build, keys = plan(config, tensors)
    with torch.device("meta"):
        module = build()
    try:
        keys.load(module, tensors)
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None
    return module.eval(), keys


def guess_kind(config: Mapping[str, Any]) -> str | None:
    """The kind that a config.json of the hub tells, or None: HyenaDNA has its ``model_type``, M2-BERT options of its own."""
    if config.get("model_type") == hyena_hub.MODEL_TYPE:
        return "hyena-dna"
    if config.get("monarch_mixer_sequence_mixing"):
        return "m2-bert-embedding" if config.get("gather_sentence_embeddings") else "m2-bert"
    return None


def ignored_options(kind: str, config: Mapping[str, Any]) -> list[str]:
    """The options of an official config that change nothing here."""
    inner = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return sorted({name for values in inner for name in values if name in kind_of(kind).ignored})


def _check_sizes(config: Mapping[str, Any], tensors: StateDict) -> None:
    """Raises ``ValueError`` for sizes that the tensors cannot have, before anything is built of them."""
    numbers = sum(tensor.numel() for tensor in tensors.values())
    try:
        check_sizes(config, len(tensors) or SMALL, LAYERS, max(numbers, SMALL))
    except ValueError as error:
        raise ValueError(f"official config: {error}") from None


def kind_of(name: str) -> Kind:
    """The kind of that name; ``ValueError`` for another."""
    if name not in KINDS:
        raise ValueError(f"unknown kind of official checkpoint {name!r}: {suggest(name, KINDS)}")
    return KINDS[name]
