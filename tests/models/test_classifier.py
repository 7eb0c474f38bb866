"""A classifier: padding changes nothing, every id counts, pooling is what it says, and an empty text has a class."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.cli.settings import parse_settings
from subquad.config import parse, with_changes
from subquad.layers.attention import AttentionConfig
from subquad.layers.hyena import HyenaConfig
from subquad.layers.linear_attention import LinearAttentionConfig
from subquad.layers.long_filter import ImplicitFilterConfig
from subquad.layers.m2_bert_mixer import M2BertMixerConfig
from subquad.layers.stack import StackConfig
from subquad.models import PRESETS, build_model, parse_model
from subquad.models.classifier import Classifier, ClassifierConfig
from subquad.models.encoder import Encoder, EncoderConfig, PoolingConfig
from subquad.models.language_model import LanguageModel, LanguageModelConfig
from subquad.models.megabyte import Megabyte, MegabyteConfig
from subquad.models.perceiver_ar import PerceiverAR, PerceiverARConfig, latent_stack

BACKBONES = {
    "attention": LanguageModelConfig(max_len=20, init_std=0.5, stack=StackConfig(dim=16, depth=2, mixer=AttentionConfig(heads=2))),
    "learned-positions": LanguageModelConfig(
        max_len=20, init_std=0.5, positions="learned", stack=StackConfig(dim=16, depth=2, mixer=LinearAttentionConfig(heads=2))
    ),
    "hyena": LanguageModelConfig(max_len=20, init_std=0.5, stack=StackConfig(dim=16, depth=2, mixer=HyenaConfig())),
    "megabyte": MegabyteConfig(
        max_len=20,
        patch_size=4,
        init_std=0.5,
        stages=(StackConfig(dim=32, depth=1, mixer=AttentionConfig(heads=2)), StackConfig(dim=16, depth=1, mixer=AttentionConfig(heads=2))),
    ),
    "megabyte-hyena": MegabyteConfig(
        max_len=20,
        patch_size=4,
        init_std=0.5,
        positions="none",
        stages=(StackConfig(dim=32, depth=1, mixer=HyenaConfig()), StackConfig(dim=16, depth=1, mixer=AttentionConfig(heads=2))),
    ),
    "perceiver-ar": PerceiverARConfig(max_len=20, latents=8, init_std=0.5, tied=True, stack=latent_stack(16, 2, 2, dropout=0.0)),
}
LENGTHS = [7, 0, 20, 1]


@pytest.fixture(params=[(name, pooling) for name in BACKBONES for pooling in ("mean", "last")], ids=str)
def model(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    name, pooling = request.param
    config = ClassifierConfig(backbone=BACKBONES[name], classes=("a", "b", "c"), pooling=pooling)
    model = build_model(config.model_dump(mode="json"))
    assert isinstance(model, Classifier) and model.config == config
    return model.double().eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(256, (len(LENGTHS), 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_padding_changes_nothing(model: Classifier, ids: Tensor) -> None:
    together = model(ids, LENGTHS)
    assert together.shape == (len(LENGTHS), 3)
    noisy = ids.clone()
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(model(ids[row : row + 1, :length])[0], together[row], rtol=0, atol=1e-9)
        noisy[row, length:] = torch.randint(256, (20 - length,))
    torch.testing.assert_close(model(noisy, LENGTHS), together, rtol=0, atol=1e-9)


@torch.no_grad()
def test_every_id_counts(model: Classifier, ids: Tensor) -> None:
    whole = model(ids)
    for t in range(20):
        other = ids.clone()
        other[:, t] = (other[:, t] + 1) % 256
        assert ((model(other) - whole).abs().amax(1) > 1e-6).all()


@torch.no_grad()
def test_it_pools_the_vectors_that_logits_are_read_from(model: Classifier, ids: Tensor) -> None:
    backbone = model.backbone
    assert isinstance(backbone, LanguageModel | Megabyte | PerceiverAR)
    hidden = backbone(ids[:, :9], output="hidden")
    assert hidden.shape == (len(LENGTHS), 10, 16)
    torch.testing.assert_close(backbone._logits(hidden[:, :-1]), backbone(ids[:, :9]))
    pooled = hidden.mean(1) if model.config.pooling == "mean" else hidden[:, -1]
    torch.testing.assert_close(model(ids[:, :9]), model.head(pooled))


@torch.no_grad()
def test_a_backbone_without_a_start_has_a_vector_for_each_id(ids: Tensor) -> None:
    torch.manual_seed(0)
    backbone = with_changes(BACKBONES["hyena"], {"start": "none"})
    model = ClassifierConfig(backbone=backbone, classes=("a", "b")).build().double().eval()
    assert isinstance(model.backbone, LanguageModel)
    hidden = model.backbone(ids, output="hidden")
    assert hidden.shape == (len(LENGTHS), 20, 16)
    torch.testing.assert_close(model.backbone._logits(hidden[:, :-1]), model.backbone(ids)[:, 1:])
    torch.testing.assert_close(model(ids), model.head(hidden.mean(1)))
    torch.testing.assert_close(model(ids, [20, 3, 1, 9])[1], model(ids[1:2, :3])[0], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="cannot classify an empty text"):
        model(ids, LENGTHS)


@torch.no_grad()
def test_an_encoder_that_reads_padding_reads_as_much_for_every_text(ids: Tensor) -> None:
    """With official padding a text is filled up to the context, whatever stands beside it; that changes what comes out."""
    mixer = M2BertMixerConfig(two_sided=True, filter=ImplicitFilterConfig(features=3, width=8))
    answers = []
    for padding in ("official", "masked"):
        torch.manual_seed(0)
        backbone = EncoderConfig(max_len=20, init_std=0.5, stack=StackConfig(dim=16, depth=2, mixer=mixer), padding=padding)
        model = ClassifierConfig(backbone=backbone, classes=("a", "b")).build().double().eval()
        together = model(ids[:, :12], [7, 2, 12, 1])
        for row, length in enumerate([7, 2, 12, 1]):
            torch.testing.assert_close(model(ids[row : row + 1, :length])[0], together[row], rtol=0, atol=1e-9)
        with pytest.raises(ValueError, match="21 ids exceed the context of 20"):
            model(torch.zeros(1, 21, dtype=torch.int64))
        answers.append(together)
    assert (answers[0] - answers[1]).abs().min() > 1e-6


def test_more_than_the_context_is_refused(model: Classifier) -> None:
    assert (model.vocab, model.max_len) == (256, 20)
    with pytest.raises(ValueError, match="21 ids exceed the context of 20"):
        model(torch.zeros(1, 21, dtype=torch.int64))


@pytest.mark.parametrize(
    ("classes", "sentence"), [((), "at least 2 classes, got 0"), (("a",), "at least 2 classes, got 1"), (("a", "a"), "must differ")]
)
def test_classes_that_cannot_be(classes: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_model({"kind": "classifier", "backbone": BACKBONES["attention"].model_dump(mode="json"), "classes": classes})


def test_it_lives_on_the_meta_device() -> None:
    values = ClassifierConfig(backbone=BACKBONES["attention"], classes=("a", "b")).model_dump(mode="json")
    assert parse_model(values).width == 16
    with torch.device("meta"):
        build_model(values)


@torch.no_grad()
@pytest.mark.parametrize("mixer", ["attention", "m2_bert"])
@pytest.mark.parametrize("problem", ["classification", "regression"])
def test_an_encoder_is_a_backbone(ids: Tensor, mixer: str, problem: str) -> None:
    """It keeps no head, pools as its own config says, and padding changes nothing."""
    torch.manual_seed(0)
    mixers = {
        "attention": AttentionConfig(heads=2, rotary=False, two_sided=True),
        "m2_bert": M2BertMixerConfig(two_sided=True, filter=ImplicitFilterConfig(features=3, width=8)),
    }
    stack = StackConfig(dim=16, depth=2, mixer=mixers[mixer])
    backbone = EncoderConfig(max_len=20, init_std=0.5, stack=stack, pooling=PoolingConfig(over="first", dense=True))
    classes = ("a", "b", "c") if problem == "classification" else ()
    values = {"kind": "classifier", "backbone": backbone.model_dump(mode="json"), "classes": classes, "problem_type": problem}
    model = build_model({**values, "target_mean": 3.0, "target_std": 2.0})
    assert isinstance(model, Classifier) and isinstance(model.backbone, Encoder) and not model.reversible
    assert model.backbone.head is None and with_changes(model.config.backbone, {"head": "mlm"}) == backbone
    model = model.double().eval()
    lengths = [7, 2, 20, 1]
    together = model(ids, lengths)
    backbone_of = model.backbone
    assert isinstance(backbone_of, Encoder)
    outputs = model.head(backbone_of(ids[:1, :7], output="embedding"))
    torch.testing.assert_close(together[0], outputs[0] if classes else 3 + 2 * outputs[0, 0], rtol=0, atol=1e-9)
    torch.testing.assert_close(model(ids, torch.tensor(lengths)), together, rtol=0, atol=1e-9)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(model(ids[row : row + 1, :length])[0], together[row], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="an encoder cannot classify an empty text"):
        model(ids, LENGTHS)
    with pytest.raises(ValueError, match=r"pooling is for causal models"):
        build_model({**values, "pooling": "last"})
    with pytest.raises(ValueError, match='problem_type="regression" has no classes'):
        build_model({**values, "problem_type": "regression", "classes": ["a", "b"]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stack": {"depht": 2}}, "unknown key 'backbone.stack.depht': did you mean 'depth'?"),
        ({"kind": "classifier"}, "backbone: unknown backbone 'classifier': known: encoder, language_model, megabyte, perceiver_ar"),
        ({"kind": None}, "backbone: backbone needs a 'kind'"),
    ],
)
def test_errors_of_a_backbone_name_the_key(change: dict[str, Any], sentence: str) -> None:
    values = BACKBONES["attention"].model_dump(mode="json")
    stack = {**values["stack"], **change.get("stack", {})}
    with pytest.raises(ValueError, match=re.escape(sentence)):
        build_model({"kind": "classifier", "backbone": {**values, **change, "stack": stack}, "classes": ["a", "b"]})


def test_a_backbone_may_be_a_preset_but_no_other_model() -> None:
    config = parse_model({"kind": "classifier", "backbone": "m2-bert-tiny"})
    assert isinstance(config, ClassifierConfig) and config.backbone == with_changes(PRESETS["m2-bert-tiny"], {"head": "none"})
    with pytest.raises(ValueError, match="unknown backbone 'classifier'"):
        ClassifierConfig(backbone=config)


def test_keys_of_earlier_versions_still_load() -> None:
    backbone = {**PRESETS["bert-base"].model_dump(mode="json"), "blank": 7}
    del backbone["mask_token"]
    values = {"kind": "classifier", "backbone": backbone}
    config = parse_model({**values, "target": "number", "center": 2.0, "scale": 3.0})
    assert isinstance(config, ClassifierConfig) and isinstance(config.backbone, EncoderConfig)
    assert (config.problem_type, config.target_mean, config.target_std, config.backbone.mask_token) == ("regression", 2.0, 3.0, 7)
    again = parse_model({**values, "target": "class"})
    assert isinstance(again, ClassifierConfig) and again.problem_type == "classification"


def test_classes_are_texts_as_a_table_has_them() -> None:
    values = {"kind": "classifier", "backbone": "transformer-tiny"}
    for setting, classes in (("[no, yes]", ("no", "yes")), ("[on, off]", ("on", "off")), ("[true, 1]", ("true", "1"))):
        changes = parse_settings([f"classes={setting}"])
        config = parse(ClassifierConfig, {**values, **changes})
        assert config.classes == classes
