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
from subquad.interop import hyena, m2_bert, monarch
from subquad.interop.keys import Keys, StateDict, tensors_of
from subquad.models.base import Model


@dataclass(frozen=True)
class Kind:
    """``plan`` says, of a config and a state, what builds the module and where its tensors are; ``model`` makes a model of ours of the
    filled module, for kinds that are whole models, which read text with ``tokenizer`` where no other is given."""

    plan: Callable[[Mapping[str, Any], StateDict], tuple[Callable[[], nn.Module], Keys]]
    model: Callable[[nn.Module], Model] | None = None
    tokenizer: str | None = None


KINDS = {
    "hyena-operator": Kind(hyena.operator),
    "hyena-operator-standalone": Kind(hyena.standalone_operator),
    "hyena-lm": Kind(hyena.language_model, hyena.as_model),
    "hyena-dna": Kind(hyena.hyena_dna, hyena.as_model, "dna"),
    "block-diagonal-linear": Kind(m2_bert.block_diagonal_linear),
    "monarch-linear": Kind(monarch.linear),
    "m2-mixer": Kind(m2_bert.mixer),
    "m2-bert": Kind(m2_bert.bert, m2_bert.as_model),
    "m2-bert-embedding": Kind(m2_bert.bert_embedding, m2_bert.as_model),
}


def from_official(kind: str, config: Mapping[str, Any], state: Mapping[str, Any]) -> nn.Module:
    """The module of an official config and state dict, in eval mode; tensors keep their type and device, meta tensors included.

    ``kind`` is one of ``KINDS``. Raises ``ValueError`` for another kind, options that are unknown or not supported, and a state that does
    not fit them, with the list of missing, unexpected and reshaped tensors.
    """
    return official_module(kind, config, state)[0]


def official_module(kind: str, config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[nn.Module, Keys]:
    """The same, with the table of its keys, which also writes tensors of the module (weights, gradients) under official names."""
    tensors = tensors_of(state)
    build, keys = kind_of(kind).plan(config, tensors)
    with torch.device("meta"):
        module = build()
    try:
        keys.load(module, tensors)
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None
    return module.eval(), keys


def kind_of(name: str) -> Kind:
    """The kind of that name; ``ValueError`` for another."""
    if name not in KINDS:
        raise ValueError(f"unknown kind of official checkpoint {name!r}: {suggest(name, KINDS)}")
    return KINDS[name]
