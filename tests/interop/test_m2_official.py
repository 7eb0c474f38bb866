"""Monarch Mixer's official numbers, given again: block-diagonal maps, mixers, convolutions, M2-BERT; values, losses and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad import from_official
from subquad.evaluation.flops import count_parameters
from subquad.interop.m2_bert import OfficialBert, as_model
from subquad.interop.official import official_module
from subquad.layers.m2_bert_mixer import M2BertMixer
from subquad.layers.monarch_linear import MonarchLinear
from subquad.models import PRESETS
from subquad.models.encoder import EncoderConfig
from subquad.ops.long_conv import long_conv
from tests.interop.golden import Golden, cases, check_equal, full_size, gradients, watched

LINEAR, MIXERS, CONVOLUTIONS = cases("blockdiag_*"), cases("m2_mixer_*"), cases("m2_fftconv_*")
MASKED, CLASSIFIERS, EMBEDDINGS = cases("m2bert_mlm*"), cases("m2bert_cls*"), cases("m2bert_embed_*")
SIZES = ("80m", "110m", "260m", "341m")


def kind_of(name: str) -> str:
    kinds = {"blockdiag": "block-diagonal-linear", "m2_mixer": "m2-mixer", "m2bert_embed": "m2-bert-embedding", "m2bert": "m2-bert"}
    return next(kind for prefix, kind in kinds.items() if name.startswith(prefix))


def bert(golden: Golden) -> OfficialBert:
    module = from_official(kind_of(golden.name), golden.config, golden.state)
    assert isinstance(module, OfficialBert) and not module.training
    return module


def inputs(golden: Golden) -> list[Tensor | None]:
    return [golden.tensors.get(f"in.{name}") for name in ("input_ids", "attention_mask", "token_type_ids")]


def layers(module: OfficialBert) -> dict[str, nn.Module]:
    """Parts whose outputs cases hold, by the names that they have there."""
    blocks = module.encoder.stack.blocks
    parts: dict[str, nn.Module] = {f"layer{index}": block for index, block in enumerate(blocks)}
    parts |= {f"layer{index}.mixer": block.mixer for index, block in enumerate(blocks)}
    parts |= {f"layer{index}.filter": block.mixer.get_submodule("filter") for index, block in enumerate(blocks)}
    return parts | {"embeddings": module.encoder.norm, "sequence_output": module.encoder.stack}


def outputs(seen: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """What the parts gave, by the official names; a filter gives both directions at once."""
    found = {}
    for name, (_, output) in seen.items():
        if not name.endswith("filter"):
            found[f"out.{name}"] = output
            continue
        for direction, taps in zip(("fwd", "rev"), output.chunk(2), strict=True):
            found[f"out.{name}_{direction}"] = taps.mT.unsqueeze(0)
    return found


@pytest.mark.parametrize("name", LINEAR)
def test_block_diagonal_linear(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module(kind_of(name), golden.config, golden.state)
    assert isinstance(module, MonarchLinear)
    x = golden.tensors["in.x"].requires_grad_()
    y = module(x)
    (y * golden.tensors["in.grad_y"]).sum().backward()
    assert x.grad is not None
    check_equal(golden, {"out.y": y, "out.dense_weight": module.dense(), "grad.in.x": x.grad} | gradients(golden, module, keys))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_long_convolution(name: str) -> None:
    golden = Golden(name)
    parts = {part: tensor.requires_grad_(part != "grad_y") for part, tensor in golden.part("in").items()}
    y = long_conv(parts["u"], parts["k_fwd"], parts.get("k_rev"), parts["D"].flatten())
    (y * parts["grad_y"]).sum().backward()
    check_equal(golden, {"out.y": y} | {f"grad.in.{part}": one.grad for part, one in parts.items() if one.grad is not None})


@pytest.mark.parametrize("name", MIXERS)
def test_mixer(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module(kind_of(name), golden.config, golden.state)
    assert isinstance(module, M2BertMixer)
    x = golden.tensors["in.x"].requires_grad_()
    filters: dict[str, nn.Module] = {"filter": module.filter}
    if module.residual is not None:
        filters["filter2"] = module.residual
    with watched(filters) as seen:
        y = module(x)
    ours = {"out.y": y}
    for part, (_, output) in seen.items():
        for direction, taps in zip(("fwd", "rev"), output.split(module.dim), strict=False):
            ours[f"out.{part}_{direction}"] = taps.mT.unsqueeze(0)
    check_equal(golden, ours)
    if golden.part("grad"):
        (y * golden.tensors["in.grad_y"]).sum().backward()
        assert x.grad is not None
        check_equal(golden, {"grad.in.x": x.grad} | gradients(golden, module, keys))


@pytest.mark.parametrize("name", MASKED)
def test_masked_language_model(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module(kind_of(name), golden.config, golden.state)
    assert isinstance(module, OfficialBert)
    ids, mask, types = inputs(golden)
    with watched(layers(module)) as seen:
        logits = module(ids, mask, types)
    labels = golden.tensors["in.labels"]
    asked = labels > 0  # the official code can not ask for id 0
    loss = F.cross_entropy(logits[asked], labels[asked])
    only = torch.where(asked.unsqueeze(-1), logits, 0)
    ours = {"out.logits": logits, "out.loss": loss, "out.logits_with_labels": only, "out.logits_no_mask_no_types": module(ids)}
    check_equal(golden, outputs(seen) | ours)
    if golden.part("grad"):
        loss.backward()
        check_equal(golden, gradients(golden, module, keys))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier(name: str) -> None:
    golden = Golden(name)
    module = bert(golden)
    ids, mask, types = inputs(golden)
    assert ids is not None
    with watched(layers(module)) as seen:
        logits = module(ids, mask, types)
    labels, several = golden.tensors["in.labels"], golden.config["problem_type"] == "multi_label_classification"
    loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)) if several else F.cross_entropy(logits, labels)
    pooled = module.encoder(ids, mask, types, output="embedding")
    check_equal(golden, outputs(seen) | {"out.logits": logits, "out.loss": loss, "out.pooled": pooled})


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embedding(name: str) -> None:
    golden = Golden(name)
    module = bert(golden)
    with watched(layers(module)) as seen:
        embedding = module(*inputs(golden))
    check_equal(golden, outputs(seen) | {"out.sentence_embedding": embedding})


@pytest.mark.parametrize("name", LINEAR + MIXERS + MASKED + CLASSIFIERS + EMBEDDINGS)
def test_weights_go_back_as_they_came(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module(kind_of(name), golden.config, golden.state)
    written, state = keys.write(module.state_dict()), golden.state
    assert all(torch.equal(tensor, state[official]) for official, tensor in written.items())
    copies = {copy for names in golden.about["tied_parameters"].values() for copy in names}
    left = {official.rpartition("filter_fn")[2] for official in state.keys() - written.keys() - copies}
    allowed = {".pos_emb.t", "2.pos_emb.t", "bert.embeddings.position_ids"}
    if name.startswith("m2bert_embed"):
        allowed |= {f"{part}.{kind}" for part in ("classifier", "bert.pooler.dense") for kind in ("weight", "bias")}
    assert left <= allowed


@pytest.mark.parametrize("size", SIZES)
def test_full_size_models_load_on_the_meta_device(size: str) -> None:
    about = full_size(f"m2-bert-{size}-mlm")
    module = from_official("m2-bert", about["config"], about["state"])
    assert isinstance(module, OfficialBert)
    assert count_parameters(module) == about["parameters"]
    assert all(tensor.is_meta for tensor in module.state_dict().values())
    assert as_model(module).config == PRESETS[f"m2-bert-{size}"]


@pytest.mark.parametrize("length", ["2k", "8k", "32k"])
def test_full_size_retrieval_models_load_on_the_meta_device(length: str) -> None:
    about = full_size(f"m2-bert-80m-{length}-retrieval")
    module = from_official("m2-bert-embedding", about["config"], about["state"])
    labels, dim = about["config"]["num_labels"], about["config"]["hidden_size"]
    assert count_parameters(module) == about["parameters"] - labels * (dim + 1)  # the classifier, which an embedding leaves out
    assert count_parameters(from_official("m2-bert", about["config"], about["state"])) == about["parameters"]


@pytest.mark.parametrize("name", MASKED[:1] + EMBEDDINGS)
@torch.no_grad()
def test_an_encoder_of_ours_keeps_padding_out(name: str) -> None:
    """The same numbers as the official module where there is no padding, and other ones where there is."""
    golden = Golden(name)
    ids, mask, types = inputs(golden)
    assert ids is not None and mask is not None and not mask.all()
    official, ours = bert(golden), as_model(bert(golden))
    assert isinstance(ours.config, EncoderConfig) and ours.config.padding == "masked"
    whole = torch.ones_like(mask)
    torch.testing.assert_close(ours(ids, whole, types), official(ids, whole, types), rtol=0, atol=1e-5)
    embedded = ours(ids, mask, types, output="embedding")
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = ours(ids[row : row + 1, :length], None, None if types is None else types[row : row + 1, :length], output="embedding")
        torch.testing.assert_close(embedded[row], alone[0], rtol=0, atol=1e-5)
    assert not torch.allclose(ours(ids, mask, types, output="embedding"), official.encoder(ids, None, types, output="embedding"), atol=1e-2)


def test_what_does_not_fit_is_named() -> None:
    golden = Golden(MASKED[0])
    with pytest.raises(ValueError, match="not supported: hidden_act='relu'"):
        from_official("m2-bert", golden.config | {"hidden_act": "relu"}, golden.state)
    with pytest.raises(ValueError, match="unknown official options hyena_filter_ordr"):
        from_official("m2-bert", golden.config | {"hyena_filter_ordr": 16}, golden.state)
    with pytest.raises(ValueError, match=r"missing .*filter_fn2"):
        from_official("m2-bert", golden.config, {name: one for name, one in golden.state.items() if "filter_fn2" not in name})
    with pytest.raises(
        ValueError, match=f"max_position_embeddings=64 is not supported with long_conv_l_max={golden.config['long_conv_l_max']}"
    ):
        from_official("m2-bert", golden.config | {"max_position_embeddings": 64}, golden.state)
