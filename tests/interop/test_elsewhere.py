"""Checkpoints as other programs write them: wrapped, in shards, by the hub's names, and hostile ones; and a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import subquad
from subquad.cli import main
from subquad.errors import RunError
from subquad.interop import hyena_hub
from subquad.interop.unwrap import unwrap
from subquad.models.classifier import Classifier
from subquad.models.language_model import LanguageModel
from tests.interop.test_convert import MODEL, OPERATOR, official_state
from tests.interop.test_m2_convert import M2_BERT
from tests.interop.test_m2_convert import official_state as m2_state

DNA = {
    "model_type": "hyenadna",
    **{"vocab_size": 12, "d_model": 8, "d_inner": 15, "n_layer": 2, "max_seq_len": 24, "emb_dim": 3, "filter_order": 6},
    **{"pad_vocab_size_multiple": 8, "num_inner_mlps": 1, "architectures": ["HyenaDNAForCausalLM"]},
}
STANDALONE = {
    **{"d_model": 8, "n_layer": 2, "d_inner": 15, "vocab_size": 12, "pad_vocab_size_multiple": 8},
    "layer": {"emb_dim": 3, "filter_order": 6, "l_max": 24, "num_inner_mlps": 1, "shift": 0.05},
}
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def hyena() -> State:
    return official_state("hyena-lm", MODEL)


WRAPPED = {
    "data parallel": lambda state: {f"module.{name}": one for name, one in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": one for name, one in state.items()},
    "both, inside of a trainer": lambda state: {
        "epoch": 3,
        "state_dict": {f"model.module._orig_mod.{name}": one for name, one in state.items()},
        "optimizer": {"lr": 1.0},
    },
    "of a tutorial": lambda state: {"model_state_dict": state, "loss": 0.1},
    "of Composer": lambda state: {"state": {"model": {f"model.{name}": one for name, one in state.items()}}},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_is_around_a_model_is_taken_off_and_said(how: str, hyena: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(WRAPPED[how](hyena), tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    assert main(["convert", str(tmp_path / "weights.pt"), "--from", "hyena-lm", "--out", str(tmp_path / "run")]) == 0
    assert "unwrapped: " in capsys.readouterr().err
    ids = torch.arange(24)[None]
    plain = subquad.convert(_saved(hyena, tmp_path / "plain.safetensors"), "hyena-lm", tmp_path / "other", MODEL)
    assert torch.equal(subquad.load(tmp_path / "run")(ids), subquad.load(plain)(ids))


def test_shards_are_one_checkpoint(hyena: State, tmp_path: Path) -> None:
    names = list(hyena)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: hyena[name] for name in part}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    whole = subquad.convert(_saved(hyena, tmp_path / "whole" / "w.safetensors"), "hyena-lm", tmp_path / "one", MODEL)
    for number, src in enumerate([tmp_path, tmp_path / "model.safetensors.index.json"]):
        run = subquad.convert(src, "hyena-lm", tmp_path / f"run{number}")
        assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names b\.safetensors, which is not beside it: fetch all shards"):
        subquad.convert(tmp_path, "hyena-lm", tmp_path / "run9")
    index["weight_map"] = {"x": "../outside.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is not the index of a sharded checkpoint"):
        subquad.convert(tmp_path, "hyena-lm", tmp_path / "run9")


def _saved(state: Mapping[str, Tensor], path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file(dict(state), path)
    return path


def hub_state(**head: Tensor) -> State:
    """The weights of a HyenaDNA by the names of the hub."""
    standalone = official_state("hyena-dna", STANDALONE)
    left_out = ("lm_head.weight", *(f"implicit_filter.{layer}.freq" for layer in (3, 5, 7)))  # the tied head, and copies
    return {f"hyena.{name}": one for name, one in standalone.items() if not name.endswith(left_out)} | head


def test_hyena_dna_of_the_hub_is_the_standalone_one_with_its_own_head() -> None:
    torch.manual_seed(1)
    head = torch.randn(16, 8)
    ids = torch.randint(7, 12, (2, 20))
    hidden = subquad.from_official("hyena-dna", STANDALONE, official_state("hyena-dna", STANDALONE))(ids)
    module = subquad.from_official("hyena-dna", DNA, hub_state(**{"lm_head.weight": head}))
    assert isinstance(module, hyena_hub.HubDNA)
    torch.testing.assert_close(module(ids), hidden @ head.T)
    scores = subquad.from_official("hyena-dna", DNA | {"num_labels": 3}, hub_state(**{"score.weight": head[:3]}))
    torch.testing.assert_close(scores(ids), hidden[:, -1] @ head[:3].T)


def test_hyena_dna_of_the_hub_becomes_a_model_of_ours(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = hub_state(**{"lm_head.weight": torch.randn(16, 8)})
    run = subquad.convert(_saved(state, tmp_path / "hf" / "model.safetensors"), None, tmp_path / "run", DNA)
    model = subquad.load(run)
    assert isinstance(model, LanguageModel) and model.tokenizer is not None
    ids = torch.randint(7, 12, (2, 20))
    torch.testing.assert_close(model(ids)[:, 1:], subquad.from_official("hyena-dna", DNA, state)(ids)[:, :-1])
    labels = {"num_labels": 2, "id2label": {"0": "no", "1": "yes"}}
    state = hub_state(**{"score.weight": torch.randn(2, 8)})
    classifier = subquad.load(subquad.convert(_saved(state, tmp_path / "c" / "model.safetensors"), None, tmp_path / "cls", DNA | labels))
    assert isinstance(classifier, Classifier) and classifier.config.classes == ("no", "yes")
    torch.testing.assert_close(classifier(ids), subquad.from_official("hyena-dna", DNA | labels, state)(ids))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"a": torch.eye(3).to_sparse()}, "a sparse tensor at 'a'"),
        ({"a": torch.zeros(3, dtype=torch.int64)}, r"holds torch.int64 at 'a'"),
        ({"a": torch.zeros(3, dtype=torch.float8_e4m3fn)}, r"holds torch.float8_e4m3fn at 'a'"),
        ({"a": torch.zeros(3), "b": torch.zeros(3, dtype=torch.float64)}, "torch.float32 at 'a' and torch.float64 at 'b'"),
        ({"a": "text"}, "holds str at 'a'"),
        ({"module.b.a": torch.zeros(1), "module.b._orig_mod.a": torch.zeros(1)}, "'b.a' twice"),
    ],
)
def test_tensors_that_cannot_be_weights_are_named(state: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        unwrap(state)


def test_a_checkpoint_that_holds_itself_and_one_of_shapes_alone_are_refused(tmp_path: Path) -> None:
    itself: dict[str, Any] = {}
    itself["state_dict"] = itself
    with pytest.raises(ValueError, match="the checkpoint holds itself under 'state_dict'"):
        unwrap(itself)
    torch.save({"a": torch.empty(2, device="meta")}, tmp_path / "meta.pt")
    with pytest.raises((ValueError, RunError), match="meta device"):
        subquad.convert(tmp_path / "meta.pt", "hyena-lm", tmp_path / "run", MODEL)


@pytest.mark.parametrize("change", [{"d_model": 10**12}, {"n_layer": 10**9}, {"vocab_size": 10**12}])
def test_absurd_sizes_are_refused_before_anything_is_built(change: dict[str, int], hyena: State) -> None:
    with pytest.raises(ValueError, match=f"official config: {next(iter(change))} is "):
        subquad.from_official("hyena-lm", MODEL | change, hyena)
    with pytest.raises(ValueError, match="official config: order is "):
        subquad.from_official("hyena-operator", OPERATOR | {"order": 10**7}, official_state("hyena-operator", OPERATOR))


def test_weights_of_two_types_are_not_saved(tmp_path: Path) -> None:
    model = subquad.build("transformer-tiny")
    model.embedding.to(torch.float64)
    with pytest.raises(ValueError, match="expected all weights of one floating-point type"):
        subquad.save(model, tmp_path / "run")


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as a snapshot needs: what a repository holds, and its files."""

    repositories: dict[str, dict[str, bytes]] = {}
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = self.path.strip("/").split("?")[0].split("/")
        if parts[:2] == ["api", "models"] and (files := self.repositories.get("/".join(parts[2:4]))) is not None:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            tree = [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in files.items()]
            answer: Any = tree if "tree" in parts else {"id": "/".join(parts[2:4]), "sha": self.COMMIT, "siblings": siblings}
            self._send(json.dumps(answer).encode(), body, "application/json")
        elif parts[2:3] == ["resolve"] and (content := self.repositories.get("/".join(parts[:2]), {}).get(parts[-1])) is not None:
            self._send(content, body, "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, body: bool, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, bytes]]]:
    """The repositories of a hub on loopback, by name, with the contents of their files."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(_Hub, "repositories", {})
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.chdir(tmp_path)
        yield _Hub.repositories
        server.shutdown()


def test_a_repository_of_the_hub_converts_and_loads(hub: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = hub_state(**{"lm_head.weight": torch.randn(16, 8)})
    files = {"config.json": json.dumps(DNA).encode(), "README.md": b"x" * 100}
    hub["LongSafari/tiny"] = files | {"model.safetensors": _saved(state, tmp_path / "w.safetensors").read_bytes()}
    assert main(["convert", "LongSafari/tiny", "--out", str(tmp_path / "run")]) == 0
    ids = torch.randint(7, 12, (2, 20))
    expected = subquad.load(tmp_path / "run")(ids)
    assert torch.equal(subquad.load("LongSafari/tiny")(ids), expected)
    assert torch.equal(subquad.load("LongSafari/tiny@main")(ids), expected)

    model = subquad.build("hyena-tiny").eval()
    subquad.save(model, tmp_path / "ours")
    hub["someone/ours"] = {name: (tmp_path / "ours" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    assert torch.equal(subquad.load("someone/ours")(ids), model(ids))

    torch.save(state, tmp_path / "w.bin")
    hub["someone/pickled"] = files | {"pytorch_model.bin": (tmp_path / "w.bin").read_bytes()}
    with pytest.raises(RunError, match="someone/pickled"):
        subquad.load("someone/pickled")
    assert torch.equal(subquad.load(subquad.convert("someone/pickled", None, tmp_path / "from-bin"))(ids), expected)

    hub["someone/strange"] = hub["LongSafari/tiny"] | {"config.json": b'{"model_type": "llama"}'}
    with pytest.raises(RunError, match="does not say what kind of checkpoint"):
        subquad.load("someone/strange")
    with pytest.raises(RunError, match="someone/nothing is not a local folder and could not be loaded"):
        subquad.load("someone/nothing")


def test_m2_bert_of_the_hub_is_told_by_its_options(tmp_path: Path) -> None:
    options = {"use_flash_mm": False, "performing_BEIR_evaluation": True, "model_type": "bert"}
    run = subquad.convert(_saved(m2_state("m2-bert", True), tmp_path / "w.safetensors"), None, tmp_path / "run", M2_BERT | options)
    assert subquad.load(run).config.kind == "encoder"
    pooled = M2_BERT | options | {"gather_sentence_embeddings": True}
    run = subquad.convert(_saved(m2_state("m2-bert-embedding", config=pooled), tmp_path / "e.safetensors"), None, tmp_path / "e", pooled)
    assert subquad.load(run).config.kind == "encoder"
