"""The encoder: padding changes nothing, batches change nothing, heads by their formulas, blanks, longer contexts, wrong inputs."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import subquad
from subquad.evaluation.flops import count_flops, count_parameters
from subquad.layers.attention import AttentionConfig
from subquad.layers.base import MixerConfig
from subquad.layers.feedforward import FeedForwardConfig
from subquad.layers.long_filter import ImplicitFilter, ImplicitFilterConfig
from subquad.layers.m2_bert_mixer import M2BertMixerConfig
from subquad.layers.m2_gpt_mixer import M2GptMixerConfig
from subquad.layers.monarch import MonarchConfig
from subquad.layers.stack import StackConfig
from subquad.models import PRESETS, build_model
from subquad.models.encoder import Encoder, EncoderConfig, MaskedHead
from subquad.models.extend_context import extend_context

SMALL = ImplicitFilterConfig(features=5, width=8)
MIXERS: dict[str, MixerConfig] = {
    "bert": AttentionConfig(heads=2, rotary=False, two_sided=True),
    "m2": M2BertMixerConfig(two_sided=True, filter=SMALL),
    "m2-norm": M2BertMixerConfig(two_sided=True, norm=True, filter=SMALL.model_copy(update={"learned_features": True})),
}


def encoder(mixer: str = "m2", max_len: int = 20, **options: Any) -> Encoder:
    torch.manual_seed(0)
    feedforward = FeedForwardConfig(activation="gelu", gated=True, blocks=4, up_bias=False)
    stack = StackConfig(dim=16, depth=2, mixer=MIXERS[mixer], feedforward=feedforward, norm="after", mixer_residual=mixer == "bert")
    model = EncoderConfig(**{"max_len": max_len, "stack": stack, "init_std": 0.3, "types": 2, **options}).build().double().eval()
    for one in model.modules():
        if isinstance(one, ImplicitFilter) and one.table is not None:
            torch.nn.init.normal_(one.table)
    return model


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(256, (3, 14), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pooling", [{}, {"over": "first", "dense": True}, {"normalized": True, "dense": True}])
@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_padding_and_company_change_nothing(mixer: str, pooling: dict[str, Any], ids: Tensor) -> None:
    model = encoder(mixer, head="none", pooling=pooling)
    lengths = [14, 1, 9]
    mask = torch.arange(14) < torch.tensor(lengths).unsqueeze(1)
    types = (torch.arange(14) > 5).long().expand(3, -1)
    together, hidden = model(ids, mask, types), model(ids, mask, types, output="hidden")
    for row, length in enumerate(lengths):
        own = ids[row : row + 1, :length]
        for padded in (length, length + 3, 20):
            alone = F.pad(own, (0, padded - length), value=7)
            real = torch.arange(padded)[None] < length
            kinds = F.pad(types[:1, :length], (0, padded - length))
            torch.testing.assert_close(model(alone, real.long(), kinds)[0], together[row], rtol=0, atol=1e-9)
        torch.testing.assert_close(model(own, None, types[:1, :length], output="hidden")[0], hidden[row, :length], rtol=0, atol=1e-9)


@torch.no_grad()
def test_official_padding_lets_it_in(ids: Tensor) -> None:
    ours, official = encoder(head="none"), encoder(head="none", padding="official")
    mask = torch.arange(14) < torch.tensor([[14], [5], [9]])
    torch.testing.assert_close(official(ids, mask)[0], ours(ids, mask)[0], rtol=0, atol=1e-9)
    assert (official(ids, mask) - ours(ids, mask))[1:].abs().min() > 1e-9
    torch.testing.assert_close(official(ids, mask, output="hidden"), ours(ids, output="hidden"), rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_heads_are_their_formulas(ids: Tensor) -> None:
    masked = encoder(head="mlm", mask_token="learned")
    assert isinstance(masked.head, MaskedHead)
    torch.nn.init.normal_(masked.head.bias)
    h = masked(ids, output="hidden")
    logits = masked.head.norm(F.gelu(masked.head.dense(h))) @ masked.embedding.weight.T + masked.head.bias
    torch.testing.assert_close(masked(ids), logits, rtol=0, atol=1e-12)
    dense = encoder(head="none", pooling={"over": "mean", "dense": True})
    assert dense.pooler is not None and dense.head is None
    pooled = torch.tanh(dense.pooler(dense(ids, output="hidden").mean(1)))
    torch.testing.assert_close(dense(ids), pooled, rtol=0, atol=1e-12)
    torch.testing.assert_close(dense(ids, output="embedding"), pooled, rtol=0, atol=1e-12)
    normalized = encoder(head="none", pooling={"normalized": True})(ids)
    torch.testing.assert_close(normalized.norm(dim=1), torch.ones(3, dtype=torch.float64))


@torch.no_grad()
def test_a_blank_hides_its_id(ids: Tensor) -> None:
    blanks = torch.zeros_like(ids, dtype=torch.bool)
    blanks[:, 4] = True
    other = ids.clone()
    other[:, 4] = (ids[:, 4] + 1) % 256
    learned, marked = encoder(mask_token="learned"), encoder(mask_token=9)
    torch.testing.assert_close(learned(ids, masked=blanks), learned(other, masked=blanks), rtol=0, atol=0)
    assert not torch.allclose(learned(ids, masked=blanks), learned(ids))
    torch.testing.assert_close(marked(ids, masked=blanks), marked(ids.masked_fill(blanks, 9)), rtol=0, atol=0)


@torch.no_grad()
def test_continued_filters_keep_what_they_were(ids: Tensor) -> None:
    for mixer in ("bert", "m2", "m2-norm"):
        short = encoder(mixer, head="none")
        long = extend_context(short, 50, "continued")
        torch.testing.assert_close(long(ids), short(ids), rtol=0, atol=1e-9)
        assert long.positions is not None and short.positions is not None
        assert torch.equal(long.positions.weight, short.positions.weight[torch.arange(50) % 20])
        assert long(torch.randint(256, (1, 50))).isfinite().all()
        again = extend_context(long, 60, "continued")
        torch.testing.assert_close(again(ids), short(ids), rtol=0, atol=1e-9)


@torch.no_grad()
def test_stretched_filters_are_the_same_function_over_the_new_length() -> None:
    """Of 39 lags to 20, every second is one of the old ones, features of a period of the length apart."""
    for mixer in ("m2", "m2-norm"):
        short = encoder(mixer)
        long = extend_context(short, 39, "stretched")
        for name, old in short.named_modules():
            if isinstance(old, ImplicitFilter):
                new = long.get_submodule(name)
                assert isinstance(new, ImplicitFilter)
                features = [
                    one.features(torch.arange(one.max_len), torch.float64) if one.table is None else one.table for one in (old, new)
                ]
                torch.testing.assert_close(features[1][::2, 0], features[0][:, 0], rtol=0, atol=1e-9)
                windows = [one._window(one._time(torch.arange(one.max_len), torch.float64)) for one in (old, new)]
                torch.testing.assert_close(windows[1][:, ::2], windows[0])


def test_presets_have_the_published_sizes() -> None:
    counts = {"bert-base": 109_514_298, "m2-bert-80m": 80.3e6, "m2-bert-110m": 115.6e6, "m2-bert-260m": 259.1e6, "m2-bert-341m": 341.0e6}
    for name, count in counts.items():
        with torch.device("meta"):
            assert count_parameters(build_model(name)) == pytest.approx(count, abs=0 if name == "bert-base" else 5e4)
    tiny = [PRESETS[name] for name in ("bert-tiny", "m2-bert-tiny")]
    assert all(config.vocab == 256 and config.max_len >= 1024 for config in tiny)


def test_flops_of_a_bert_are_those_of_its_matrices() -> None:
    """Table of a layer: 24 D^2 + 4 T D a token, all pairs of positions; the head has a map of its own before the logits."""
    flops = count_flops("bert-base", 512)
    dim, vocab = 768, 30_522
    assert flops.linear == 12 * 24 * dim**2 + 2 * dim**2
    assert flops.attention == 12 * 4 * 512 * dim
    assert flops.logits == 2 * vocab * dim
    m2 = count_flops("m2-bert-80m", 128)
    assert m2.linear == 12 * (8 + 6) * dim**2 + 2 * dim**2
    assert count_flops(encoder(head="none").config).logits == 0


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[0, 1, 1], [1, 1, 1]], "pad on the right"),
        ([[1, 1, 0], [1, 0, 1]], "pad on the right"),
        ([[1, 1, 1], [0, 0, 0]], "row 1 of the mask has no real id: leave this text out"),
    ],
)
@pytest.mark.parametrize("output", ["head", "embedding", "hidden"])
def test_a_mask_has_padding_on_the_right_of_every_text(
    rows: list[list[int]], sentence: str, output: Literal["head", "embedding", "hidden"]
) -> None:
    with pytest.raises(ValueError, match=sentence):
        encoder()(torch.zeros(2, 3, dtype=torch.long), torch.tensor(rows), output=output)


@pytest.mark.parametrize("mask", [None, torch.ones(2, 0)])
def test_a_text_without_ids_has_no_embedding(mask: Tensor | None) -> None:
    ids = torch.zeros(2, 0, dtype=torch.long)
    with pytest.raises(ValueError, match="a text without ids has no embedding: leave it out"):
        encoder()(ids, mask, output="embedding")
    with pytest.raises(ValueError, match="a text without ids has no embedding"):
        encoder(head="none")(ids, mask)
    assert encoder()(ids, mask).shape == (2, 0, 256)


@torch.no_grad()
def test_logits_at_chosen_positions_are_those_of_all(ids: Tensor) -> None:
    model, mask = encoder(), torch.arange(14) < torch.tensor([14, 9, 3])[:, None]
    positions = torch.tensor([0, 13, 15, 3, 28])
    torch.testing.assert_close(model(ids, mask, positions=positions), model(ids, mask).flatten(0, 1)[positions], rtol=0, atol=1e-12)
    for headless in (encoder(head="none"), partial(model, output="embedding")):
        with pytest.raises(ValueError, match="positions select logits, but this output has none"):
            headless(ids, positions=positions)


def test_wrong_inputs(ids: Tensor) -> None:
    model = encoder()
    with pytest.raises(ValueError, match=r"a mask must have the shape of the ids, \(3, 14\), got \(3, 13\)"):
        model(ids, torch.ones(3, 13))
    with pytest.raises(ValueError, match="token_types must have the shape of the ids"):
        model(ids, None, ids[:1])
    with pytest.raises(ValueError, match="21 ids exceed the context of 20"):
        model(torch.zeros(1, 21, dtype=torch.long))
    with pytest.raises(ValueError, match=r"has no token types \(types=0\)"):
        encoder(types=0)(ids, None, ids)
    with pytest.raises(ValueError, match="this encoder has no mask token"):
        model(ids, masked=ids > 3)
    with pytest.raises(ValueError, match="mask_token must be one of the 256 ids"):
        encoder(mask_token=256)
    with pytest.raises(ValueError, match="4 blocks do not divide the widths 10 and 40"):
        subquad.build("m2-bert-tiny", {"stack.dim": 10})
    with pytest.raises(ValueError, match="20 ids, and 20 is not longer"):
        extend_context(model, 20, "continued")
    with pytest.raises(ValueError, match="max_len must be a whole number of ids, got '40'"):
        extend_context(model, "40", "continued")  # type: ignore[arg-type]
    for other in ("hyena-tiny", "megabyte-tiny"):
        with pytest.raises(ValueError, match="expected an encoder, got"):
            extend_context(build_model(other), 2048, "continued")  # type: ignore[arg-type]
    for mixer in (MonarchConfig(), M2GptMixerConfig(heads=2, basis="learned", filter=SMALL)):
        sized = model.config.model_copy(update={"stack": StackConfig(dim=16, depth=1, mixer=mixer)}).build()
        with pytest.raises(ValueError, match=r"stack.blocks.0.* at 50 ids, which cannot be extended"):
            extend_context(sized, 50, "continued")
    with pytest.raises(ValueError, match=r"ids must be \(B, T\), one row per text, got \(14,\)"):
        model(ids[0])
    with pytest.raises(ValueError, match="texts must be a list of bytes or str, got a single str"):
        subquad.embed(model, "hello")
    for use in (subquad.generate, subquad.score):
        with pytest.raises(ValueError, match="an encoder predicts masked positions, not what comes next"):
            use(model, b"text")
