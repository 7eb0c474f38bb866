"""What is Hyena's own: the surrogate matrix, prepared spectra, longer contexts, filters, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import subquad
from subquad.config import parse
from subquad.layers.attention import AttentionConfig
from subquad.layers.hyena import Hyena, HyenaConfig
from subquad.layers.hyena_2d import Hyena2d, Hyena2dConfig
from subquad.layers.long_filter import ExplicitFilterConfig, ImplicitFilter, ImplicitFilterConfig, WindowConfig
from subquad.layers.stack import StackConfig
from subquad.models import build_model, parse_model
from subquad.models.language_model import LanguageModel
from subquad.training.config import OptimConfig
from subquad.training.optim import build_optimizer, decayed_names, set_lr

SMALL = ImplicitFilterConfig(features=5, width=6)


def _operator(length: int, **options: Any) -> Hyena:
    torch.manual_seed(0)
    return HyenaConfig(**{"filter": SMALL, **options}).build(4, length).double()


@pytest.mark.parametrize(
    ("order", "short_first", "two_sided"),
    [case for case in itertools.product((1, 2, 3), (False, True), (False, True)) if case[0] > case[1]],
)
@torch.no_grad()
def test_the_operator_is_the_product_of_its_gates_and_toeplitz_matrices(order: int, short_first: bool, two_sided: bool) -> None:
    """y = D_N S_N ... D_1 S_1 v, channel by channel, with the matrices written out (definition 3.1)."""
    length = 11
    mixer = _operator(length, order=order, short_first=short_first, two_sided=two_sided)
    x = torch.randn(2, length, 4, dtype=torch.float64)
    projected = torch.nn.functional.pad(mixer.project(x), (0, 0, 2, 0))
    p = sum(mixer.short.weight[:, j] * projected[:, 2 - j : 2 - j + length] for j in range(3)) + mixer.short.bias
    *gates, v = p.unflatten(-1, (-1, 4)).unbind(2)
    taps = mixer.filter(length).unflatten(0, (-1, mixer.config.filters, 4))
    for n in range(order):
        filter_ = n - short_first
        if filter_ >= 0:
            lag = torch.arange(length)[:, None] - torch.arange(length)
            matrix = torch.where(lag >= 0, taps[0, filter_][:, lag.clamp(min=0)], 0)
            if two_sided:
                matrix = matrix + torch.where(lag < 0, taps[1, filter_][:, (-lag - 1).clamp(min=0)], 0)
            v = torch.einsum("dts,bsd->btd", matrix, v) + mixer.skip.weight[filter_] * v
        v = gates[order - 1 - n] * v
    torch.testing.assert_close(mixer(x), mixer.out(v), rtol=0, atol=1e-10)


@pytest.mark.parametrize("two_sided", [False, True])
@torch.no_grad()
def test_prepared_spectra_change_nothing(two_sided: bool) -> None:
    mixer = _operator(30, order=3, two_sided=two_sided)
    held = mixer.prepare(30)
    for length in (1, 13, 30):
        x = torch.randn(2, length, 4, dtype=torch.float64)
        torch.testing.assert_close(mixer(x, None, held), mixer(x), rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_whole_model_prepared() -> None:
    model = build_model("hyena-tiny").double().eval()
    assert isinstance(model, LanguageModel)
    ids = torch.randint(256, (2, 50))
    torch.testing.assert_close(model(ids, spectra=model.prepare(64)), model(ids), rtol=0, atol=1e-9)


def test_a_longer_context_continues_the_filters_or_stretches_them() -> None:
    def build(max_len: int, filter_len: int | None = None) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        filter_ = SMALL.model_copy(update={"filter_len": filter_len}).build(3, max_len)
        assert isinstance(filter_, ImplicitFilter)
        return filter_(max_len), filter_.features(torch.arange(max_len), torch.float32)[:, 0]

    short, continued, stretched = build(20), build(40, 20), build(39)
    torch.testing.assert_close(continued[0][:, :20], short[0], rtol=0, atol=1e-6)
    assert continued[1][-1] > 2 and (continued[0][:, 20:].abs().amax(1) > 0).all()
    torch.testing.assert_close(stretched[1][::2], short[1])
    assert (stretched[0][:, :20] - short[0]).abs().max() > 1e-3


def test_filters_start_as_the_papers_do() -> None:
    filter_ = ImplicitFilterConfig(features=5, width=6, learned_features=True, frequency=14).build(8, 32)
    assert isinstance(filter_, ImplicitFilter) and filter_.table is not None and filter_.rates is not None
    assert torch.equal(filter_.frequency, torch.full((6,), 14.0))
    torch.testing.assert_close(filter_.rates[[0, -1]], torch.tensor([3.0701, 15.3506]), rtol=0, atol=1e-4)
    lags = torch.arange(32)
    w = 2 * torch.pi * lags / 32
    f = torch.linspace(1e-4, 1, 2)
    expected = torch.cat((lags[:, None] / 31, torch.cos(w[:, None] * f), -torch.sin(w[:, None] * f)), 1)
    torch.testing.assert_close(filter_.table.detach(), expected, rtol=0, atol=1e-5)
    window = ImplicitFilterConfig(features=5, width=6, window=WindowConfig(shift=0.3)).build(2, 9)
    bare = ImplicitFilterConfig(features=5, width=6, window=None).build(2, 9)
    bare.load_state_dict({name: value for name, value in window.state_dict().items() if name != "rates"})
    assert isinstance(window, ImplicitFilter) and window.rates is not None
    decay = torch.exp(-window.rates[:, None] * torch.arange(9) / 8) + 0.3
    torch.testing.assert_close(window(9), bare(9) * decay)


def test_normalised_filters_have_magnitudes_that_add_up_to_one_over_channels() -> None:
    taps = ImplicitFilterConfig(features=5, width=6, normalized=True).build(8, 20)(20)
    torch.testing.assert_close(taps.abs().sum(0), torch.ones(20))


def test_the_filter_is_trained_without_weight_decay() -> None:
    model = build_model("hyena-tiny")
    decayed = decayed_names(model)
    assert not any(".filter." in name or ".skip." in name for name in decayed)
    assert {"stack.blocks.0.mixer.project.weight", "stack.blocks.0.mixer.short.weight"} <= decayed
    optimizer = build_optimizer(model, OptimConfig(), 1e-3)
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_gradients_reach_every_parameter() -> None:
    for config in (HyenaConfig(order=3, filter=SMALL), HyenaConfig(two_sided=True, filter=SMALL)):
        mixer = config.build(4, 20)
        mixer(torch.randn(2, 20, 4)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in mixer.parameters())


@torch.no_grad()
def test_two_dimensions_without_gates_are_a_linear_map_that_commutes_with_shifts() -> None:
    torch.manual_seed(0)
    mixer = Hyena2dConfig(shape=(6, 5), gated=False, short_kernel=1, filter=SMALL).build(4, 30)
    assert isinstance(mixer, Hyena2d)
    mixer = mixer.double()
    image = torch.zeros(1, 6, 5, 4, dtype=torch.float64)
    image[0, 2, 1] = torch.randn(4)
    blank = mixer(torch.zeros_like(image).flatten(1, 2)).unflatten(1, (6, 5))
    here = mixer(image.flatten(1, 2)).unflatten(1, (6, 5)) - blank
    there = mixer(image.roll((1, 2), (1, 2)).flatten(1, 2)).unflatten(1, (6, 5)) - blank
    torch.testing.assert_close(there[:, 1:, 2:], here[:, :-1, :-2], rtol=0, atol=1e-10)


def test_keys_of_0_1_0_still_load() -> None:
    assert parse(HyenaConfig, {"filter": {"base_len": 9}}) == HyenaConfig(filter=ImplicitFilterConfig(filter_len=9))
    mixers = {"mixer": {"kind": "hyena"}, "others": {1: {"kind": "attention", "heads": 2}}}
    assert parse(StackConfig, {"dim": 4, "depth": 2, **mixers}).overrides == {1: AttentionConfig(heads=2)}


WRONG: dict[str, dict[str, Any]] = {
    "with order 1 the short convolution is the only filter": {"order": 1},
    "'order': expected a value greater than or equal to 1, got 0": {"order": 0},
    "features are time and pairs of a cosine and a sine, so their number must be odd and at least 3, got 8": {"filter": {"features": 8}},
    "so their number must be odd and at least 3, got 1": {"filter": {"features": 1}},
    "unknown filter 'implict': did you mean 'implicit'": {"filter": {"kind": "implict"}},
    "unknown key 'filter.windw'": {"filter": {"windw": None}},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_configs(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        parse(HyenaConfig, WRONG[sentence])


def test_what_a_mixer_refuses() -> None:
    mixer = HyenaConfig(filter=SMALL).build(4, 10)
    with pytest.raises(ValueError, match="12 positions exceed the 10 of the filter: build the model with a larger max_len"):
        mixer(torch.randn(1, 12, 4))
    with pytest.raises(
        ValueError, match=r"a mask has one entry per position, \(1, 8\), True at real positions, got \(1, 7\) of torch.bool"
    ):
        mixer(torch.randn(1, 8, 4), torch.ones(1, 7, dtype=torch.bool))
    for config in (SMALL, ExplicitFilterConfig(taps=3)):
        with pytest.raises(ValueError, match="keep the model in float32 and use autocast"):
            HyenaConfig(filter=config).build(4, 10).bfloat16()(torch.randn(1, 8, 4).bfloat16())


def test_a_language_model_refuses_what_sees_the_future() -> None:
    values = parse_model("hyena-tiny").model_dump(mode="json")
    values["stack"]["mixer"]["two_sided"] = True
    with pytest.raises(ValueError, match="a language model predicts the next id, but its mixer 'hyena' sees later ids"):
        parse_model(values)
    values["stack"]["mixer"]["two_sided"] = False
    values["stack"]["overrides"] = {7: {"kind": "attention", "heads": 2}}
    with pytest.raises(ValueError, match="overrides names block 7, but the blocks are 0 to 1"):
        parse_model(values)


def test_autocast_keeps_filters_and_transforms_whole() -> None:
    torch.manual_seed(0)
    mixer, x = HyenaConfig(filter=SMALL).build(4, 200), torch.randn(1, 200, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = mixer(x)
        assert mixer.filter(200).dtype == torch.float32
    torch.testing.assert_close(low.float(), mixer(x), rtol=0.05, atol=0.05)


@torch.no_grad()
def test_numbers_under_a_mask_may_be_anything() -> None:
    mixer, x = _operator(10), torch.randn(1, 10, 4, dtype=torch.float64)
    mask = torch.arange(10)[None] < 6
    spoilt = x.masked_fill(~mask.unsqueeze(-1), torch.nan)
    torch.testing.assert_close(mixer(spoilt, mask), mixer(x, mask), rtol=0, atol=0)
    with pytest.raises(ValueError, match="got \\(1, 10\\) of torch.int64"):
        mixer(x, mask.long())


def test_spectra_are_for_evaluation_and_for_their_own_mixer() -> None:
    mixer, other = _operator(10), _operator(10, order=3)
    x = torch.randn(1, 8, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="give the filters no gradient: train without them"):
        mixer(x, None, mixer.prepare(10))
    with pytest.raises(ValueError, match="expected the spectra of 1 filters, got 2"), torch.no_grad():
        mixer(x, None, other.prepare(10))
    with pytest.raises(ValueError, match=r"u must be \(B, 6, L\)"), torch.no_grad():
        mixer(x, None, HyenaConfig().build(6, 10).double().prepare(10))
    with pytest.raises(ValueError, match=r"expected \(B, T, 4\), the width of the mixer"):
        mixer(torch.zeros(1, 8, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="0 or more positions, got -3"):
        mixer.prepare(-3)
    model = build_model("hyena-tiny").eval()
    assert isinstance(model, LanguageModel)
    with pytest.raises(ValueError, match="the spectra of 2 blocks, got 1"):
        model(torch.zeros(1, 4, dtype=torch.long), spectra=model.prepare(8)[:1])


def test_the_block_of_a_hybrid_is_named_by_its_number() -> None:
    attention = {"kind": "attention", "heads": 2}
    for changes in ({"stack.overrides": {1: attention}}, {"stack.overrides.1": attention}, {"stack": {"overrides": {"1": attention}}}):
        model = subquad.build("hyena-tiny", changes)
        assert isinstance(model, LanguageModel) and [type(block.mixer).__name__ for block in model.stack.blocks] == ["Hyena", "Attention"]
        again = subquad.build(model.config.model_dump(mode="json"), {"stack.overrides.1.heads": 4})
        assert isinstance(again, LanguageModel) and again.config.stack.overrides[1] == AttentionConfig(heads=4)


@torch.no_grad()
def test_the_filters_of_images_are_normalised_too() -> None:
    config = Hyena2dConfig(shape=(3, 4), filter=SMALL.model_copy(update={"normalized": True}))
    mixer = config.build(4, 12)
    torch.testing.assert_close(mixer.filter().abs().sum(0), torch.ones(5, 7))
    with torch.autocast("cpu", torch.bfloat16):
        assert mixer.filter().dtype == torch.float32 and mixer(torch.randn(1, 12, 4)).shape == (1, 12, 4)
