"""Official checkpoints of every form, made into run folders; and what does not fit, refused in one sentence."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import subquad
from subquad.cli import main
from subquad.errors import RunError
from subquad.interop.convert import read_state
from subquad.interop.official import KINDS, kind_of
from subquad.models.classifier import Classifier
from subquad.models.language_model import LanguageModel
from tests.test_system import holder

LAYER = {"_name_": "hyena", "emb_dim": 3, "filter_order": 6, "l_max": 24, "local_order": 3, "w": 2, "order": 3}
MODEL = {"d_model": 8, "n_layer": 2, "d_inner": 15, "vocab_size": 250, "pad_vocab_size_multiple": 8, "embed_dropout": 0.1, "layer": LAYER}
HYBRID = MODEL | {"attn_layer_idx": [0], "attn_cfg": {"num_heads": 2}, "max_position_embeddings": 24}
OPERATOR = {name: value for name, value in LAYER.items() if name != "_name_"} | {"d_model": 8}
M2_MIXER = {"d_model": 8, "l_max": 24, "hyena_filter_order": 6, "residual_long_conv": True}
M2_BERT = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 24,
    "long_conv_l_max": 24,
    "hyena_filter_order": 6,
    "monarch_mixer_sequence_mixing": True,
    "residual_long_conv": True,
    "use_monarch_mlp": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "hyena-operator": OPERATOR,
    "hyena-operator-standalone": OPERATOR,
    "hyena-lm": MODEL,
    "hyena-dna": MODEL,
    "block-diagonal-linear": {"in_features": 6, "out_features": 9, "nblocks": 3},
    "m2-mixer": M2_MIXER,
    "m2-bert": M2_BERT,
    "m2-bert-embedding": M2_BERT,
    "monarch-linear": {"in_features": 30, "out_features": 18},
}
State = dict[str, Tensor]


def official_state(kind: str, config: dict[str, Any]) -> State:
    """A state as official code would save it, with random weights."""
    torch.manual_seed(0)
    build, keys = kind_of(kind).plan(config, {})
    module = build()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = keys.write(module.state_dict())
    state |= {copy: state[key.official].clone() for key in keys.keys for copy in key.copies}
    return {name: tensor.contiguous() for name, tensor in state.items()} | {one.official: one.value.clone() for one in keys.constants}


def lightning(state: State) -> dict[str, Any]:
    """As Lightning saves it, with activation checkpointing on."""
    wrapped = {f"model.{name}".replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer."): one for name, one in state.items()}
    return {"epoch": 3, "state_dict": wrapped, "optimizer_states": [{"step": 7}]}


def test_every_kind_has_a_config_here() -> None:
    assert CONFIGS.keys() == KINDS.keys()


@pytest.mark.parametrize("config", [MODEL, HYBRID], ids=["hyena", "hybrid"])
@torch.no_grad()
def test_a_converted_model_gives_the_official_logits_one_position_later(config: dict[str, Any], tmp_path: Path) -> None:
    state = official_state("hyena-lm", config)
    torch.save(lightning(state), tmp_path / "last.ckpt")
    assert subquad.convert(tmp_path / "last.ckpt", "hyena-lm", tmp_path / "run", config) == tmp_path / "run"
    model = subquad.load(tmp_path / "run")
    assert isinstance(model, LanguageModel)
    ids = torch.randint(250, (2, 24))
    ours, official = model(ids), subquad.from_official("hyena-lm", config, state)(ids)
    torch.testing.assert_close(ours[:, 1:], official[:, :-1])
    assert len(ours[:, 0].unique()) == 1
    assert len(subquad.generate(model, b"ACGT", max_bytes=40, seed=0)) == 40


def test_a_folder_that_a_run_is_being_written_to_is_refused(tmp_path: Path) -> None:
    torch.save(official_state("hyena-lm", MODEL), tmp_path / "last.ckpt")
    out = tmp_path / "run"
    out.mkdir()
    with holder(out) as other, pytest.raises(ValueError, match=f"is being written by process {other.pid}"):
        subquad.convert(tmp_path / "last.ckpt", "hyena-lm", out, MODEL)
    assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize("save", [torch.save, save_file], ids=["torch", "safetensors"])
@pytest.mark.parametrize("head", [False, True], ids=["no lm_head", "lm_head"])
def test_hyena_dna_becomes_a_language_model(save: Callable[[State, Path], None], head: bool, tmp_path: Path) -> None:
    state = official_state("hyena-dna", MODEL)
    if not head:
        del state["lm_head.weight"]
    (tmp_path / "official").mkdir()
    save(state, tmp_path / "official" / ("weights.bin" if save is torch.save else "weights.safetensors"))
    (tmp_path / "official" / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    assert main(["convert", str(tmp_path / "official"), "--from", "hyena-dna", "--out", str(tmp_path / "run")]) == 0
    model, ids = subquad.load(tmp_path / "run"), torch.randint(250, (1, 9))
    hidden = subquad.from_official("hyena-dna", MODEL, state)(ids)
    torch.testing.assert_close(model(ids)[:, 1:], (hidden @ state["backbone.embeddings.word_embeddings.weight"].T)[:, :-1])
    assert main(["info", str(tmp_path / "run")]) == 0


@torch.no_grad()
def test_a_hyena_dna_with_a_head_becomes_a_classifier(tmp_path: Path) -> None:
    config = MODEL | {"use_head": True, "n_classes": 3}
    head = {"head.output_transform.weight": torch.randn(3, 8), "head.output_transform.bias": torch.randn(3)}
    state = official_state("hyena-dna", MODEL) | head
    torch.save(state, tmp_path / "headed.pt")
    model = subquad.load(subquad.convert(tmp_path / "headed.pt", "hyena-dna", tmp_path / "run", config, "dna"))
    assert isinstance(model, Classifier) and model.config.classes == ("0", "1", "2")
    ids = torch.randint(7, 12, (2, 20))
    torch.testing.assert_close(model(ids), subquad.from_official("hyena-dna", config, state)(ids), rtol=0, atol=1e-5)
    found, _ = subquad.classify(model, ["ACGTACGT", "TTTT"])
    assert found.label in model.config.classes


def test_a_table_of_features_that_was_a_buffer_is_computed_or_kept() -> None:
    config = OPERATOR | {"lr_pos_emb": 0.0}
    state = official_state("hyena-operator", OPERATOR)
    table = subquad.from_official("hyena-operator", OPERATOR, state).get_parameter("mixer.filter.table")
    moved = subquad.from_official("hyena-operator", config, state)
    assert torch.equal(moved.get_parameter("mixer.filter.table"), table)
    build, _ = kind_of("hyena-operator").plan(config, {})
    state["filter_fn.pos_emb.z"] = build().get_submodule("mixer.filter").features(torch.arange(24), torch.float32)[None]  # type: ignore[operator]
    x = torch.randn(1, 24, 8)
    computed, read = (subquad.from_official("hyena-operator", one, state) for one in (config, OPERATOR))
    assert "mixer.filter.table" not in computed.state_dict()
    torch.testing.assert_close(computed(x), read(x))


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: one for key, one in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without("out_proj.bias"), "missing out_proj.bias"),
        (without("filter_fn.implicit_filter.3.freq"), "missing filter_fn.implicit_filter.3.freq"),
        (lambda state: state | {"gate.weight": torch.zeros(1)}, "unexpected gate.weight"),
        (lambda state: state | {"in_proj.bias": torch.zeros(4)}, "reshaped in_proj.bias (4,) instead of (32,)"),
        (
            lambda state: state | {"short_filter.weight": torch.zeros(32, 3, 1)},
            "reshaped short_filter.weight (32, 3, 1) instead of (32, 1, 3)",
        ),
        (
            lambda state: state | {"filter_fn.implicit_filter.5.freq": torch.zeros(1, 6)},
            "different from what they must equal filter_fn.implicit_filter.5.freq (a copy of filter_fn.implicit_filter.1.freq)",
        ),
        (lambda state: state | {"filter_fn.pos_emb.t": torch.zeros(1, 24, 1)}, "equal filter_fn.pos_emb.t (a constant of the config)"),
        (lambda state: state | {"out_proj.bias": torch.zeros(8, dtype=torch.bfloat16)}, "torch.bfloat16 at 'out_proj.bias'"),
        (lambda state: {"in_proj.bias": 3}, "the state holds int at 'in_proj.bias'"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_with_a_list(change: Callable[[State], Any], expected: str) -> None:
    state = change(official_state("hyena-operator", OPERATOR))
    with pytest.raises(ValueError) as caught:
        subquad.from_official("hyena-operator", OPERATOR, state)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("hyena-operater", OPERATOR, "unknown kind of official checkpoint 'hyena-operater': did you mean 'hyena-operator'?"),
        ("hyena-operator", OPERATOR | {"emb_dmi": 5}, "unknown official options emb_dmi: did you mean 'emb_dim'?"),
        ("hyena-operator", OPERATOR | {"foo": 5, "bar": 1}, "unknown official options foo, bar: known: d_model,"),
        ("hyena-operator", OPERATOR | {"num_heads": 2}, "not supported: num_heads=2 (only num_heads=1)"),
        ("hyena-operator", OPERATOR | {"emb_dim": 4}, "official config: 'emb_dim': features are time and pairs"),
        ("hyena-operator", {"d_model": 8}, "official config: 'l_max' is missing"),
        ("hyena-lm", MODEL | {"layer": LAYER | {"_name_": "long-conv"}}, "not supported: layer._name_='long-conv'"),
        ("hyena-lm", MODEL | {"layer": LAYER | {"d_model": 9}}, "layer.d_model is 9"),
        ("hyena-lm", MODEL | {"layer_norm_epsilon": 1e-6}, "not supported: layer_norm_epsilon=1e-06"),
        ("hyena-lm", HYBRID | {"max_position_embeddings": 12}, "max_position_embeddings=12 is not supported"),
        ("hyena-lm", HYBRID | {"attn_cfg": {"num_heads": 2, "rotary_emb_dim": 4}}, "not supported: attn_cfg.rotary_emb_dim=4"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(kind: str, config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        subquad.from_official(kind, config, {})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Path("x")}, tmp_path / "path.ckpt")
    (tmp_path / "call.pt").write_bytes(pickle.dumps({"a": print}, protocol=4))
    for name, held in (("path.ckpt", r"pathlib[\w.]*Path"), ("call.pt", "more than tensors")):
        with pytest.raises(
            RunError, match=rf"^[^\n]+ holds {held}, and reading that could run code from the file, so it is refused[^\n]+$"
        ):
            read_state(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"hello world", pickle.dumps([1, 2], protocol=2)])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"^[^\n]+ (is truncated or not a checkpoint of PyTorch|holds a list, expected a state dict)[^\n]*$"):
        read_state(tmp_path / "cut.pt")


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, config = official_state("hyena-lm", MODEL), tmp_path / "config.yaml"
    config.write_text(json.dumps(MODEL), encoding="utf-8")
    save_file({name: one.clone() for name, one in state.items()}, tmp_path / "whole.safetensors")
    torch.save(without("lm_head.weight")(state), tmp_path / "part.pt")
    torch.save({"hyper_parameters": Path("x")}, tmp_path / "code.ckpt")
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    whole, lm, given = tmp_path / "whole.safetensors", ["--from", "hyena-lm"], ["--config", str(config)]
    for arguments, status, expected in [
        ([whole, *given], 2, "the config does not say what kind of checkpoint it is of: name it with --from (hyena-lm"),
        ([whole, "--from", "hyena", *given], 2, "unknown kind of official checkpoint 'hyena'"),
        ([whole, "--from", "hyena-operator", *given], 2, "hyena-operator is a layer, not a whole model"),
        ([whole, *lm], 2, "there is no config.json beside the weights"),
        ([whole, *lm, "--config", tmp_path / "no.json"], 2, "there is no config"),
        ([whole, *lm, "--config", tmp_path / "list.json"], 2, "holds a list, expected a mapping"),
        ([tmp_path / "none.pt", *lm, *given], 2, "does not exist"),
        ([tmp_path, *lm, *given], 2, "expected one checkpoint file"),
        ([config, *lm, *given], 2, "config.yaml' is not a checkpoint file: give one whose name ends in .safetensors, .pt"),
        ([tmp_path / "part.pt", *lm, *given], 2, "hyena-lm: the state does not fit the config: missing lm_head.weight"),
        ([tmp_path / "code.ckpt", *lm, *given], 1, "could run code"),
        ([whole, *lm, *given, "--tokenizer", tmp_path / "no.json"], 2, "cannot read the tokenizer"),
    ]:
        assert main(["convert", *map(str, arguments), "--out", str(tmp_path / "run")]) == status
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
        assert not (tmp_path / "run").exists()
    assert main(["convert", str(whole), *lm, *given]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert main(["convert", str(whole), *lm, *given, "--out", str(tmp_path / "run")]) == 0
    assert main(["convert", str(whole), *lm, *given, "--out", str(tmp_path / "run")]) == 2
    assert "is not empty" in capsys.readouterr().err
