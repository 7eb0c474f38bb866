"""Any config that validates builds, sees no future where it is a causal model, decodes as it forwards, and survives its files.

Configs are drawn from the fields of the classes in the tables of models and mixers, so a new one takes part by itself. What only its
layers can tell of a config, that sizes do not fit, is a ``ValueError`` of the build.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquad.config import Config, OneOf, parse
from subquad.layers.attention import AttentionConfig
from subquad.layers.stack import StackConfig
from subquad.models import MODELS, build_model, parse_model
from subquad.models.base import BaseModelConfig, CausalModel, Model, ModelConfig
from subquad.models.classifier import Classifier
from subquad.models.encoder import Encoder, EncoderConfig
from subquad.models.registry import BASE_MODELS
from tests.layers.cases import small_values
from tests.models.cases import build

LENGTH = 24
# Numbers and names cannot be drawn blindly; a field that is not here keeps its default, or takes a small value where it has none.
# "Class.field" goes before "field".
CHOICES: dict[str, list[Any]] = {
    "max_len": [LENGTH],
    "dim": [8, 12, 24],
    "depth": [2, 1, 0],
    "ImplicitFilterConfig.depth": [2, 3],
    "heads": [2, 1, 4],
    "head_dim": [None, 4],
    "cross_heads": [None, 1, 2],
    "rotary_fraction": [1.0, 0.5],
    "AttentionConfig.window": [None, 1, 5],
    "two_sided": [False, False, False, True],
    "mixer_residual": [True, True, False],
    "order": [2, 3],
    "HyenaConfig.order": [2, 1],
    "FeedForwardConfig.order": [1, 2],
    "short_kernel": [3, 1],
    "shape": [(4, 6)],
    "features": [5, 3],
    "width": [4],
    "filter_len": [None, 9],
    "taps": [3, 64],
    "chunk": [5, 64],
    "block": [None, 3],
    "blocks": [1, 2],
    "cross_patch": [None, 0, 1],
    "conv_kernels": [(), (3, 2)],
    "latents": [6, 2, 64],
    "types": [0, 2],
    "mask_token": [None, "learned", 9],
    "classes": [("a", "b"), ()],
}


def configs(kind: type[Config], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with every field of a config class that validate."""
    fields = {}
    for name, field in kind.model_fields.items():
        choices = CHOICES.get(f"{kind.__name__}.{name}", CHOICES.get(name))
        if name in fixed:
            fields[name] = fixed[name]
        elif choices is not None:
            fields[name] = st.sampled_from(choices)
        elif (of_type := _of_type(field.annotation, field.metadata)) is not None:
            fields[name] = of_type
        elif field.is_required():
            fields[name] = st.sampled_from(small_values(kind, name))
    return st.fixed_dictionaries(fields).filter(lambda values: _validates(kind, values))


def _validates(kind: type[Config], values: Mapping[str, Any]) -> bool:
    try:
        parse(kind, values)
    except ValueError:
        return False
    return True


def _of_type(annotation: Any, marks: list[Any]) -> st.SearchStrategy[Any] | None:
    """What a field of this type may hold, None where its type does not say."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if tables := [mark.table for mark in marks if isinstance(mark, OneOf)]:
        return st.sampled_from(sorted(tables[0])).flatmap(lambda name: configs(tables[0][name]))
    if origin is Annotated:
        return _of_type(inner[0], list(inner[1:]))
    if annotation is bool:
        return st.booleans()
    if annotation is types.NoneType:
        return st.none()
    if origin is Literal:
        return st.sampled_from(inner)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return configs(annotation)
    parts = [_of_type(part, []) for part in inner]
    if origin in (Union, types.UnionType):
        return None if None in parts else st.one_of(*(part for part in parts if part is not None))
    if origin is dict and parts[1] is not None:
        return st.dictionaries(st.integers(0, 1), parts[1], max_size=1)
    return None


def models(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings of models of one kind."""
    if kind == "perceiver_ar":  # which reads by attention alone
        return configs(MODELS[kind], stack=configs(StackConfig, mixer=configs(AttentionConfig)))
    if kind == "megabyte":  # which has a stage more than patch sizes
        patches: st.SearchStrategy[int | tuple[int, ...]] = st.sampled_from([4, 1, 3, (3, 2), (2, 2)])
        return patches.flatmap(lambda sizes: configs(MODELS[kind], patch_size=st.just(sizes), stages=_stages(sizes)))
    if kind == "classifier":
        return configs(MODELS[kind], backbone=st.sampled_from(sorted(BASE_MODELS)).flatmap(models))
    return configs(MODELS[kind])


def _stages(sizes: int | tuple[int, ...]) -> st.SearchStrategy[Any]:
    stack = configs(StackConfig, dim=st.sampled_from([12, 24])).filter(lambda values: _is_causal(parse(StackConfig, values)))
    return st.tuples(stack, *[stack] * (1 if isinstance(sizes, int) else len(sizes)))


def _is_causal(stack: StackConfig) -> bool:
    return all(mixer.causal for mixer in stack.mixers)


@pytest.mark.parametrize("kind", MODELS)
@given(data=st.data())
@settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_config_that_validates_is_a_model(kind: str, data: st.DataObject) -> None:
    config = parse_model(data.draw(models(kind)))
    assert_survives_its_files(config)
    try:
        model = _built(config)
    except ValueError:  # sizes that do not fit
        assume(False)
        return
    if isinstance(model, CausalModel):
        assert_sees_no_future(model)
        assert_decodes_as_it_forwards(model)
    else:
        assert isinstance(model, Encoder | Classifier)
        assert_reads_no_padding(model)


def _built(config: BaseModelConfig) -> Model:
    if isinstance(config, ModelConfig) and not isinstance(config, EncoderConfig):
        return build(config)
    torch.manual_seed(0)
    return build_model(config).double().eval()


def assert_survives_its_files(config: BaseModelConfig) -> None:
    values = config.model_dump(mode="json")
    assert parse_model(json.loads(json.dumps(values))) == config
    assert parse_model(yaml.safe_load(yaml.safe_dump(values))) == config


@torch.no_grad()
def assert_sees_no_future(model: CausalModel) -> None:
    ids = torch.arange(LENGTH)[None]
    logits = model(ids)
    for position in (0, 7, 16, LENGTH - 1):
        changed = ids.clone()
        changed[0, position] = 200
        _assert_close(model(changed)[:, : position + 1], logits[:, : position + 1])


@torch.no_grad()
def assert_decodes_as_it_forwards(model: CausalModel) -> None:
    ids = torch.randint(256, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    state = model.init_state(2)
    logits = [state.logits[:, None], model.prefill(ids[:, :9], state)]
    logits += [model.step(ids[:, position], state)[:, None] for position in range(9, LENGTH - 1)]
    _assert_close(torch.cat(logits, 1), model(ids))


@torch.no_grad()
def assert_reads_no_padding(model: Encoder | Classifier) -> None:
    ids, lengths = torch.randint(256, (2, LENGTH), generator=torch.Generator().manual_seed(1)), torch.tensor([LENGTH, 11])
    mask = torch.arange(LENGTH) < lengths[:, None]
    other = torch.where(mask, ids, 255 - ids)
    if isinstance(model, Classifier):
        _assert_close(model(other, lengths), model(ids, lengths))
    else:
        _assert_close(model(other, mask, output="embedding"), model(ids, mask, output="embedding"))


def _assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape and expected.isfinite().all()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 * max(1.0, expected.abs().max().item()))
