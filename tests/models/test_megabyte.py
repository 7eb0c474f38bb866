"""What is MEGABYTE's own: the paper's equations, sizes, options and costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.config import parse
from subquad.evaluation.flops import count_flops, count_parameters
from subquad.layers.stack import Block
from subquad.models import parse_model, presets
from subquad.models.language_model import LanguageModelConfig, transformer
from subquad.models.megabyte import Megabyte, MegabyteConfig
from tests.models.cases import CASES, build, stack
from tests.models.cases import megabyte as small


def paper_forward(model: Megabyte, ids: Tensor) -> Tensor:
    """Equations 1 to 6 written out for one sequence of whole patches, without cross-patch attention: the slow twin of ``forward``."""
    config = model.config
    assert isinstance(config.patch_size, int)
    size, (wide, narrow) = config.patch_size, model.stages
    assert wide.positions is not None and wide.pad is not None
    count = len(ids) // size
    embedded = wide.embedding.weight[ids] + wide.positions.weight[: len(ids)]
    patches = embedded.reshape(count, -1)
    g_out = wide.stack(torch.cat((wide.pad.unsqueeze(0), patches[:-1])).unsqueeze(0))[0]
    rows = []
    for k in range(count):
        l_in = []
        for p in range(size):
            part = g_out[k].reshape(size, -1)[p]
            before = narrow.pad if p == 0 else narrow.embedding.weight[ids[k * size + p - 1]]
            assert narrow.above is not None
            l_in.append(narrow.above.weight @ part + before)
        l_out = narrow.stack(torch.stack(l_in).unsqueeze(0))[0]
        rows.append(l_out @ narrow.embedding.weight.T)
    return torch.cat(rows)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
@torch.no_grad()
def test_equals_the_equations_of_the_paper(size: int) -> None:
    model = build(small(size, cross_patch=0))
    assert isinstance(model, Megabyte)
    ids = torch.randint(256, (20,))
    torch.testing.assert_close(model(ids.unsqueeze(0))[0], paper_forward(model, ids), rtol=0, atol=1e-9)


@torch.no_grad()
def test_without_local_predicts_the_bytes_of_a_patch_independently() -> None:
    model = build(small(4, ablation="local"))
    one = torch.randint(256, (1, 16))
    other = one.clone()
    other[0, 12:] = torch.randint(256, (4,))
    assert torch.equal(model(one)[:, 12:], model(other)[:, 12:])
    assert not model.stages[-1].stack.blocks if isinstance(model, Megabyte) else False


@torch.no_grad()
def test_cross_patch_reaches_exactly_r_positions_back() -> None:
    """One local layer without a global model: byte s reaches position t through the local input at s + 1 alone."""
    size, back = 4, 2
    config = MegabyteConfig(max_len=40, patch_size=size, stages=(stack(16), stack(8, depth=1)), cross_patch=back, ablation="global")
    model = build(config)
    ids = torch.randint(256, (1, 12))
    before = model(ids)
    for s in range(12):
        changed = ids.clone()
        changed[0, s] = (changed[0, s] + 1) % 256
        moved = ((model(changed) - before).abs().sum(-1) > 1e-9)[0].tolist()
        # a patch begins with the pad vector, so the last byte of a patch enters no local input
        expected = [(s + 1) % size > 0 and s < t and s + 1 >= t // size * size - back for t in range(12)]
        assert moved == expected, s


def test_zero_bytes_are_data_and_padding_touches_nothing() -> None:
    model = build(small(4))
    zeros = torch.zeros(1, 9, dtype=torch.long)
    loss = F.cross_entropy(model(zeros)[0], zeros[0])
    assert math.isfinite(loss.item())
    table = model.stages[0].embedding.weight if isinstance(model, Megabyte) else None
    assert table is not None
    gradient = torch.autograd.grad(F.cross_entropy(model(zeros[:, :5])[0], zeros[0, :5]), table)[0]
    assert gradient[0].abs().sum() > 0 and gradient[1:].abs().sum() == 0


@pytest.mark.parametrize("name", ["megabyte-arxiv", "transformer-125m"])
def test_initial_weights_are_cut_off_at_two_deviations(name: str) -> None:
    config = parse_model(name)
    small_config = (
        config.model_copy(update={"stages": (stack(64), stack(32)), "patch_size": 4, "max_len": 64})
        if isinstance(config, MegabyteConfig)
        else config.model_copy(update={"stack": stack(64), "max_len": 64})
    )
    for parameter_name, parameter in small_config.build().named_parameters():
        if parameter_name.endswith("bias"):
            assert parameter.abs().max() == 0
        elif "norm" not in parameter_name:
            assert 0.004 < parameter.std() < 0.006 and parameter.abs().max() <= 2 * 0.006 + 1e-9, parameter_name


def test_dropout_is_not_on_embeddings() -> None:
    config = small(4).model_copy(update={"stages": (stack(16, depth=0), stack(8, depth=0))})
    model = config.build().train()
    ids = torch.randint(256, (1, 12))
    assert torch.equal(model(ids), model(ids))


# Sizes of Hyena and M2-GPT are counted to the number in tests/evaluation/test_flops.py.
OTHERS = ("hyena", "m2-gpt")
DENSE = [n for n, one in presets().items() if one.kind in ("megabyte", "language_model") and not n.startswith(OTHERS)]


@pytest.mark.parametrize("name", DENSE)
def test_presets_have_the_sizes_of_the_tables(name: str) -> None:
    """Non-embedding parameters against 12 L D^2 over the stacks that the preset has; biases and norms add 13 L D."""
    config = parse_model(name)
    with torch.device("meta"):
        model = config.build()
    if isinstance(config, MegabyteConfig):
        gone = {"global": 0, "local": len(config.stages) - 1, None: -1}[config.ablation]
        stacks = [stage for index, stage in enumerate(config.stages) if index != gone]
    else:
        assert isinstance(config, LanguageModelConfig)
        stacks = [config.stack]
    counted = sum(count_parameters(module) for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm))
    weights = sum(12 * one.depth * one.dim**2 for one in stacks)
    rest = sum(13 * one.depth * one.dim + 2 * one.dim for one in stacks)
    assert counted == pytest.approx(weights + rest, rel=0.01)
    assert "tiny" in name or "small" in name or counted == pytest.approx(weights, rel=0.01)
    assert config.vocab == 256 and config.max_len >= 1024


def test_flops_of_the_table_7_pair() -> None:
    megabyte, plain = count_flops("megabyte-arxiv"), count_flops(transformer(1024, 22, 16, 1024))
    assert megabyte.total == pytest.approx(0.637e9, rel=0.01)
    assert plain.total == pytest.approx(0.600e9, rel=0.01)
    assert count_flops(transformer(64, 2, 2, 64), backward=True).total == pytest.approx(3 * count_flops(transformer(64, 2, 2, 64)).total)
    full, half = (count_flops(transformer(64, 2, 2, 64), causal=causal).attention for causal in ("full", "half"))
    assert full == 2 * half == 4 * 2 * 64 * 64


@torch.no_grad()
def test_serial_layer_calls_of_a_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """N bytes cost L_g N / P + L_l N calls of a block, MEGABYTE section 3.2; a byte Transformer L N."""
    calls = 0
    prefill = Block.prefill

    def counted(self: Block, *arguments: object) -> Tensor:
        nonlocal calls
        calls += 1
        return prefill(self, *arguments)  # type: ignore[arg-type]  # the arguments pass through

    monkeypatch.setattr(Block, "prefill", counted)
    for config, expected in ((small(4), 2 * 8 + 2 * 32), (CASES["transformer"], 2 * 32)):
        model, calls = build(config), 0
        state = model.init_state(1)
        for _ in range(31):
            model.step(state.logits.argmax(-1), state)
        assert calls == expected


WRONG: dict[str, dict[str, Any]] = {
    "7 does not divide the width 32": {"patch_size": 7, "max_len": 42},
    "does not divide max_len 41": {"max_len": 41},
    "3 stages need 2 patch sizes": {"stages": [stack(32), stack(8), stack(8)]},
    "cross_patch 9 reaches past": {"cross_patch": 9},
    "did you mean 'patch_size'": {"patchsize": 4},
    "conv_kernels must be positive": {"conv_kernels": [0]},
    "conv_kernels are for the global model": {"conv_kernels": [3], "without": "global"},
    "'ablation': expected 'local' or 'global'": {"without": "both"},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_configs_say_what_is_wrong(sentence: str) -> None:
    values = {**small(8).model_dump(), **WRONG[sentence]}
    with pytest.raises(ValueError, match=sentence):
        parse(MegabyteConfig, values)


def test_wrong_widths_of_attention() -> None:
    with pytest.raises(ValueError, match="dim 10 is not a multiple of 3 heads"):
        transformer(10, 1, 3).build()
    with pytest.raises(ValueError, match="head_dim is 5"):
        transformer(10, 1, 2).build()
    with pytest.raises(ValueError, match="unknown mixer 'atention': did you mean 'attention'"):
        parse_model({"kind": "language_model", "max_len": 8, "stack": {"dim": 8, "depth": 1, "mixer": {"kind": "atention", "heads": 2}}})
    with pytest.raises(ValueError, match="did you mean 'megabyte-tiny'"):
        parse_model("megabyte-tinny")
