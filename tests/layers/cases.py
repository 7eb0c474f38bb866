"""Small mixers that stand for every option; tests of the contract run over all of them, and over a mixer of the table that is not here."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from subquad.config import Config, parse
from subquad.layers.attention import AttentionConfig
from subquad.layers.base import MixerConfig
from subquad.layers.hyena import HyenaConfig
from subquad.layers.hyena_2d import Hyena2dConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.long_filter import ExplicitFilterConfig, ImplicitFilterConfig, WindowConfig
from subquad.layers.m2_bert_mixer import M2BertMixerConfig
from subquad.layers.m2_gpt_mixer import M2GptMixerConfig
from subquad.layers.monarch import MonarchConfig
from subquad.layers.registry import MIXERS

EXAMPLES: dict[str, list[MixerConfig]] = {
    "attention": [
        AttentionConfig(heads=2),
        AttentionConfig(heads=2, rotary=False),
        AttentionConfig(heads=2, rotary_fraction=0.5),
        AttentionConfig(heads=3, head_dim=6, window=4),
        AttentionConfig(heads=2, two_sided=True),
    ],
    "linear_attention": [
        LinearAttentionConfig(heads=2, chunk=6),
        LinearAttentionConfig(heads=2, rotary=True, chunk=4),
        LinearAttentionConfig(heads=3, head_dim=6),
    ],
    "hyena": [
        HyenaConfig(filter=ImplicitFilterConfig(features=5, width=6)),
        HyenaConfig(order=3, filter=ImplicitFilterConfig(features=3, width=6, learned_features=True, window=WindowConfig(shift=0.1))),
        HyenaConfig(order=1, short_first=False, short_kernel=1, filter=ImplicitFilterConfig(features=3, width=6, window=None)),
        HyenaConfig(order=2, short_first=False, short_kernel=4, filter=ExplicitFilterConfig(taps=7)),
        HyenaConfig(two_sided=True, filter=ImplicitFilterConfig(features=5, width=6)),
        HyenaConfig(order=3, two_sided=True, filter=ExplicitFilterConfig(taps=4)),
        HyenaConfig(order=4, filter=ImplicitFilterConfig(features=3, width=6, depth=2, normalized=True, filter_len=9)),
    ],
    "hyena_2d": [
        Hyena2dConfig(shape=(3, 4), filter=ImplicitFilterConfig(features=5, width=6)),
        Hyena2dConfig(shape=(4, 3), order=3, short_first=False, filter=ImplicitFilterConfig(features=3, width=6, window=None)),
        Hyena2dConfig(shape=(2, 6), gated=False, filter=ImplicitFilterConfig(features=3, width=6)),
    ],
    "m2_bert": [
        M2BertMixerConfig(filter=ImplicitFilterConfig(features=5, width=6)),
        M2BertMixerConfig(residual=False, norm=True, filter=ImplicitFilterConfig(features=3, width=6, learned_features=True)),
        M2BertMixerConfig(two_sided=True, filter=ImplicitFilterConfig(features=5, width=6, frequency_scale=2.0)),
        M2BertMixerConfig(two_sided=True, residual=False, norm=True, filter=ImplicitFilterConfig(features=3, width=6, window=None)),
        M2BertMixerConfig(two_sided=True, short_kernel=1, filter=ExplicitFilterConfig(taps=4)),
    ],
    "m2_gpt": [
        M2GptMixerConfig(heads=2, filter=ImplicitFilterConfig(features=5, width=6)),
        M2GptMixerConfig(heads=4, order=3, short_kernel=1, filter=ExplicitFilterConfig(taps=7)),
        M2GptMixerConfig(heads=2, basis="learned", filter=ImplicitFilterConfig(features=5, width=6)),
        M2GptMixerConfig(heads=1, order=3, basis="learned", block=5, filter=ExplicitFilterConfig(taps=9)),
    ],
    "monarch": [MonarchConfig(), MonarchConfig(channels=True)],
}

SMALL = (2, 1, 8, 0.5, True, (3, 4), "a")


def examples(kind: str) -> list[MixerConfig]:
    """Those above, or the mixer's defaults, with a small value in each field that has none."""
    if kind in EXAMPLES:
        return EXAMPLES[kind]
    config = MIXERS[kind]
    return [parse(config, {name: small_values(config, name)[0] for name, field in config.model_fields.items() if field.is_required()})]


def small_values(config: type[Config], name: str) -> list[Any]:
    """The values of ``SMALL`` that a field takes."""
    values = [value for value in SMALL if _takes(config, name, value)]
    assert values, f"{config.__name__}.{name} takes none of {SMALL}: give it a default"
    return values


def _takes(config: type[Config], name: str, value: object) -> bool:
    try:
        config.model_validate({name: value})
    except ValidationError as error:
        return all(line["loc"][0] != name for line in error.errors() if line["loc"])
    return True
