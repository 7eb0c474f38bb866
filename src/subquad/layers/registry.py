"""The table of mixers. A new mixer is one file beside this one and one line here."""

from __future__ import annotations

from typing import Annotated

from subquad.config import OneOf
from subquad.layers.attention import AttentionConfig
from subquad.layers.base import MixerConfig
from subquad.layers.hyena import HyenaConfig
from subquad.layers.hyena_2d import Hyena2dConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.m2_bert_mixer import M2BertMixerConfig
from subquad.layers.m2_gpt_mixer import M2GptMixerConfig
from subquad.layers.monarch import MonarchConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "attention": AttentionConfig,
    "linear_attention": LinearAttentionConfig,
    "hyena": HyenaConfig,
    "hyena_2d": Hyena2dConfig,
    "monarch": MonarchConfig,
    "m2_bert": M2BertMixerConfig,
    "m2_gpt": M2GptMixerConfig,
}

RENAMED = {"monarch_mixer": "m2_bert", "causal_monarch": "m2_gpt"}  # kinds of version 0.1.0

AnyMixerConfig = Annotated[MixerConfig, OneOf(MIXERS, "mixer", "attention", renamed=RENAMED)]
