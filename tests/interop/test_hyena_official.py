"""Hyena's official numbers, given again: operators, language models, HyenaDNA, convolutions; values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subquad import from_official
from subquad.evaluation.flops import count_parameters
from subquad.interop.hyena import Backbone, OfficialLM, OfficialOperator
from subquad.interop.official import official_module
from subquad.layers.hyena import Hyena
from subquad.ops.long_conv import long_conv
from subquad.ops.short_conv import short_conv
from tests.interop.golden import Golden, cases, check_equal, full_size, gradients, watched

KIND_OF = {
    "standalone_hyena.HyenaOperator": "hyena-operator-standalone",
    "src.models.sequence.hyena.HyenaOperator": "hyena-operator",
    "src.models.sequence.simple_lm.SimpleLMHeadModel": "hyena-lm",
    "src.models.sequence.long_conv_lm.ConvLMHeadModel": "hyena-lm",
    "standalone_hyenadna.HyenaDNAModel": "hyena-dna",
}
REFUSED = "hyena_op_src_postffn_gelu"
OPERATORS, MODELS = cases("hyena_op_*", (REFUSED,)), cases("hyena_lm_*") + cases("hyenadna_*")
CONVOLUTIONS = cases("fftconv_*")


def kind_of(golden: Golden) -> str:
    return KIND_OF[golden.about["official_symbol"]]


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module(kind_of(golden), golden.config, golden.state)
    assert isinstance(module, OfficialOperator) and not module.training
    mixer = module.mixer
    assert isinstance(mixer, Hyena)
    x = golden.tensors["in.x"].requires_grad_()
    with watched({"filter": mixer.filter}) as seen:
        y = module(x)
    # The rows of the last map are filter channels, so its layout is that of the filters.
    taps = keys.write({"mixer.filter.last.weight": seen["filter"][1]}).popitem()[1]
    projected = mixer.project(x[:, : golden.config["l_max"]])
    short = short_conv(projected.mT, mixer.short.weight, mixer.short.bias)
    ours = {"out.y": y, "out.short_filter": short, "out.filter": taps.mT.unsqueeze(0)}
    if x.shape[1] > golden.config["l_max"]:  # what no output depends on is not projected here
        golden.tensors["out.in_proj"] = golden.tensors["out.in_proj"][:, : golden.config["l_max"]]
    check_equal(golden, ours | {"out.in_proj": projected})
    if golden.part("grad"):
        (y * golden.tensors["in.grad_y"]).sum().backward()
        assert x.grad is not None
        check_equal(golden, {"grad.in.x": x.grad} | gradients(golden, module, keys))


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module(kind_of(golden), golden.config, golden.state)
    assert isinstance(module, Backbone) and not module.training
    ids, blocks = golden.tensors["in.input_ids"], module.stack.blocks
    parts: dict[str, nn.Module] = {f"layer{index}.hidden": block.feedforward for index, block in enumerate(blocks) if block.feedforward}
    parts |= {f"layer{index}.mixer": block.mixer for index, block in enumerate(blocks)}
    with watched(parts | {"stack": module.stack}) as seen:
        y = module(ids)
    ours = {f"out.{part}": seen[part][1] for part in parts}
    ours |= {"out.embeddings": seen["stack"][0], "out.backbone": seen["stack"][1]}
    if isinstance(module, OfficialLM):
        loss = F.cross_entropy(y[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        check_equal(golden, ours | {"out.logits": y, "out.loss": loss})
        if golden.part("grad"):
            loss.backward()
            check_equal(golden, gradients(golden, module, keys))
    else:
        check_equal(golden, ours | {"out.output": y})


@pytest.mark.parametrize("name", OPERATORS + MODELS)
def test_weights_go_back_as_they_came(name: str) -> None:
    golden = Golden(name)
    module, keys = official_module(kind_of(golden), golden.config, golden.state)
    written, state = keys.write(module.state_dict()), golden.state
    assert all(torch.equal(tensor, state[official]) for official, tensor in written.items())
    copies = {copy for names in golden.about["tied_parameters"].values() for copy in names}
    computed = {official for official in state.keys() - written.keys() - copies}
    assert {official.rpartition("filter_fn.")[2] for official in computed} <= {"pos_emb.t", "pos_emb.z", "modulation.deltas"}
    parameters = {official for official in written if not official.endswith("deltas")}
    assert parameters == keys.write(dict(module.named_parameters())).keys()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_long_convolution(name: str) -> None:
    golden = Golden(name)
    inputs = {part: tensor.requires_grad_(part not in ("grad_y", "dropout_mask")) for part, tensor in golden.part("in").items()}
    k, k_reverse = inputs["k"], inputs.get("k_rev")
    if k_reverse is not None:  # the official reverse filter begins at u[t], so that lag 0 counts twice
        k, k_reverse = k + F.pad(k_reverse[:, :1], (0, k.shape[1] - 1)), k_reverse[:, 1:]
    y = long_conv(inputs["u"], k, k_reverse, inputs["D"])
    if "gelu" in golden.config["kind"]:
        y = F.gelu(y) * inputs["dropout_mask"].unsqueeze(-1)
    (y * inputs["grad_y"]).sum().backward()
    check_equal(golden, {"out.y": y} | {f"grad.in.{part}": one.grad for part, one in inputs.items() if one.grad is not None})


@pytest.mark.parametrize(("name", "kind"), [("hyena-pile-lm", "hyena-lm"), ("hyenadna-hg38", "hyena-dna")])
def test_full_size_models_load_on_the_meta_device(name: str, kind: str) -> None:
    about = full_size(name)
    module = from_official(kind, about["config"], about["state"])
    assert count_parameters(module) == about["parameters"]
    assert all(tensor.is_meta for tensor in module.state_dict().values())


def test_what_is_not_supported_is_named() -> None:
    golden = Golden(REFUSED)
    with pytest.raises(ValueError, match=r"not supported: post_order_ffn=True, activation='gelu'"):
        from_official(kind_of(golden), golden.config, golden.state)


def test_the_layouts_of_filter_channels_are_told_apart() -> None:
    """A state of order 3 fits both kinds by its shapes; only the right one gives the official output."""
    golden = Golden("hyena_op_src_o3")
    y = from_official("hyena-operator-standalone", golden.config, golden.state)(golden.tensors["in.x"])
    assert golden.error("out.y", y) > 1000
