"""A run folder loads what was saved, bit for bit, or says in one sentence why not."""

from __future__ import annotations

import json
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from subquad import manifest, run_folder
from subquad.data.tokenizer import Tokenizer
from subquad.errors import RunError
from subquad.models import build_model
from tests.test_system import holder

STACK: dict[str, Any] = {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2}}
SMALL: dict[str, Any] = {"kind": "megabyte", "max_len": 32, "patch_size": 4, "stages": [STACK, {**STACK, "dim": 8}]}
OTHER: dict[str, Any] = {"kind": "language_model", "max_len": 16, "stack": STACK}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(SMALL).eval()


@pytest.fixture
def run(model: nn.Module, tmp_path: Path) -> Path:
    run_folder.save(model, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("values", [SMALL, OTHER, {**OTHER, "tied": False}], ids=["megabyte", "tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loads_what_was_saved(values: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_model(values).to(dtype).eval()
    run_folder.save(model, tmp_path)
    loaded = run_folder.load(tmp_path)
    assert not loaded.training and loaded.config == model.config
    assert all(parameter.requires_grad and parameter.dtype == dtype for parameter in loaded.parameters())
    ids = torch.randint(0, 256, (2, 16))
    assert torch.equal(loaded(ids), model(ids))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]


def test_a_second_save_replaces_model_and_config(run: Path) -> None:
    run_folder.save(build_model(OTHER), run)
    assert run_folder.load(run).config == build_model(OTHER).config
    assert "replacing" not in json.loads((run / "manifest.json").read_text())


def tokens_of(text: bytes) -> Tokenizer:
    from tests.data.test_tokenizer import span

    return Tokenizer.train([span(text)], 260)


def test_a_token_model_has_its_tokenizer_with_it(tmp_path: Path) -> None:
    model: Any = build_model({**OTHER, "vocab": 260})
    model.tokenizer = tokens_of(b"some words and some more words")
    run_folder.save(model, tmp_path)
    manifest.check(tmp_path)
    loaded: Any = run_folder.load(tmp_path)
    assert loaded.tokenizer.to_bytes() == model.tokenizer.to_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").rename(tmp_path / "elsewhere")
    assert cast(Any, run_folder.load(tmp_path)).tokenizer is None
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    for verify, message in [(True, "tokenizer.json is damaged"), (False, "is not a tokenizer.json")]:
        with pytest.raises(RunError, match=message):
            run_folder.load(tmp_path, verify=verify)
    (tmp_path / "tokenizer.json").write_bytes(tokens_of(b"quite another text here, and here").to_bytes())
    with pytest.raises(RunError, match="belongs to another model"):
        run_folder.load(tmp_path, verify=False)


def test_a_byte_model_in_the_place_of_a_token_model_has_no_tokenizer(tmp_path: Path) -> None:
    model: Any = build_model({**OTHER, "vocab": 260})
    model.tokenizer = tokens_of(b"some words and some more words")
    run_folder.save(model, tmp_path)
    run_folder.save(build_model(OTHER), tmp_path)
    assert cast(Any, run_folder.load(tmp_path)).tokenizer is None
    manifest.check(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]


def test_a_tokenizer_put_there_by_hand_is_taken(run: Path) -> None:
    tokenizer = tokens_of(b"some words and some more words")
    run_folder.save(build_model({**OTHER, "vocab": 264}), run)
    (run / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    assert cast(Any, run_folder.load(run)).tokenizer.pieces == tokenizer.pieces
    run_folder.save(build_model(OTHER), run)
    (run / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    with pytest.raises(RunError, match="belongs to another model"):
        run_folder.load(run)


def test_saving_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a model of this library"):
        run_folder.save(nn.Linear(2, 2), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_any_flipped_bit_and_any_cut_is_refused(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        for damaged in (bytes(flipped), whole[: draw.randrange(len(whole))]):
            (run / name).write_bytes(damaged)
            with pytest.raises(RunError, match="is damaged"):
                run_folder.load(run)
    (run / name).write_bytes(whole)
    run_folder.load(run)


def test_damage_that_is_not_verified_still_ends_in_a_sentence(run: Path) -> None:
    whole = (run / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(1)
    for _ in range(100):
        flipped = bytearray(whole)
        flipped[draw.randrange(header)] ^= 1 << draw.randrange(8)
        for damaged in (bytes(flipped), whole[: draw.randrange(len(whole))]):
            (run / "model.safetensors").write_bytes(damaged)
            try:
                run_folder.load(run, verify=False)
            except RunError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["gpu", "cuda:97", "meta"])
def test_a_device_that_is_not_there_is_a_sentence(name: str, run: Path) -> None:
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used: expected auto, cpu"):
        run_folder.load(run, name)


def test_auto_is_the_gpu_where_there_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert run_folder.resolve_device("auto") == torch.device(kind)
    weights = run_folder.load(run, "auto").parameters()
    assert {parameter.device for parameter in weights} == {torch.device("cpu")}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_run_folder_says_what_it_lacks(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunError, match=f"has no {name}"):
        run_folder.load(run)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        run_folder.load(tmp_path / "nowhere")


def test_a_repo_id_needs_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"pip install 'subquad\[hf\]'"):
        run_folder.load("someone/a-model")


def test_weights_that_do_not_fit_are_listed(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    first, second, *_ = tensors
    tensors["stranger"] = tensors.pop(first)
    tensors[second] = torch.zeros(3, 7)
    save_file(tensors, run / "model.safetensors")
    with pytest.raises(RunError) as error:
        run_folder.load(run, verify=False)
    assert f"missing {first}" in str(error.value) and "unknown stranger" in str(error.value) and "(3, 7)" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"kind": "language_model"}', '{"kind": "unheard-of"}', json.dumps({**SMALL, "patch_sice": 4})]
)
def test_a_config_that_describes_no_model_is_a_sentence(run: Path, text: str) -> None:
    (run / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json"):
        run_folder.load(run, verify=False)


def test_a_config_of_another_size_is_refused_before_memory_is_taken(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["stages"][0]["dim"] = 1 << 16
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="does not fit"):
        run_folder.load(run, verify=False)


@pytest.mark.parametrize("wrap", ["compile", "data parallel", "both", "parts"])
def test_what_is_saved_of_a_wrapped_model_is_the_model(wrap: str, tmp_path: Path, model: nn.Module) -> None:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run_folder.save(wrapped(model, wrap), tmp_path)
    for state in (load_file(tmp_path / "model.safetensors"), run_folder.load(tmp_path).state_dict()):
        assert state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)
    other = wrapped(build_model(SMALL), wrap)
    run_folder.load_weights(other, tmp_path)
    assert all(torch.equal(*pair) for pair in zip(other.state_dict().values(), weights.values(), strict=True))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_file_of_a_wrapped_model_loads(prefix: str, run: Path, model: nn.Module) -> None:
    save_file({prefix + name: tensor for name, tensor in load_file(run / "model.safetensors").items()}, run / "model.safetensors")
    loaded = run_folder.load(run, verify=False)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def wrapped(model: nn.Module, wrap: str) -> nn.Module:
    """The model as what wraps models leaves it; nothing is compiled before it runs."""
    if wrap == "parts":
        for stage in model.get_submodule("stages"):  # type: ignore[attr-defined]
            stage.stack = torch.compile(stage.stack, backend="eager")
    if wrap in ("data parallel", "both"):
        model = nn.DataParallel(model)
    return cast(nn.Module, torch.compile(model, backend="eager")) if wrap in ("compile", "both") else model


@pytest.fixture
def process_group() -> Iterator[None]:
    """This process as the only rank."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fsdp(module: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(module, device_id=torch.device("cpu"))


def sharded(model: nn.Module, way: str) -> nn.Module:
    """The model, or its parts, as the ways to shard leave them."""
    if way == "fully_shard":
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        return model
    if way in ("parts", "both"):
        for stage in model.get_submodule("stages").children():
            stage.stack = fsdp(stage.get_submodule("stack"))
    return model if way == "parts" else fsdp(model)


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:.*NO_SHARD")  # of one rank
@pytest.mark.parametrize("way", ["whole", "parts", "both", "fully_shard"])
def test_what_is_saved_of_a_sharded_model_is_the_model(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(SMALL)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = sharded(model, way)
    run_folder.save(whole, tmp_path / "run")
    state = run_folder.load(tmp_path / "run").state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    run_folder.save(whole, tmp_path / "second")
    assert not (tmp_path / "second").exists()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:.*NO_SHARD")  # of one rank
def test_a_model_taken_out_of_its_wrapper_is_refused(run: Path, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="would not load: missing .*; unknown _flat_param; and 26 more; save the whole model"):
        run_folder.save(fsdp(build_model(SMALL)).get_submodule("_fsdp_wrapped_module"), run)
    assert torch.equal(next(run_folder.load(run).parameters()), next(model.parameters()))


def quantised(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # deprecated, and still there
        return cast(nn.Module, torch.ao.quantization.quantize_dynamic(model, {nn.Linear}))


def with_adapter(model: nn.Module) -> nn.Module:
    model.adapter = nn.Linear(2, 2)
    return model


def without_bias(model: nn.Module) -> nn.Module:
    model.get_submodule("stages.0.stack.norm").register_parameter("bias", None)
    return model


def narrower(model: nn.Module) -> nn.Module:
    model.get_submodule("stages.0").embedding = nn.Embedding(256, 3)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (quantised, "unknown stages.0.stack.blocks.0.mixer.qkv.scale"),
        (with_adapter, "unknown adapter.weight; unknown adapter.bias;"),
        (without_bias, "missing stages.0.stack.norm.bias;"),
        (narrower, r"stages.0.embedding.weight is \(256, 3\), expected shape \(256, 4\)"),
        (lambda model: model.to("meta"), r"stages.0.pad is on the meta device, expected shape \(16,\)"),
    ],
)
def test_a_model_that_would_not_load_does_not_replace_one_that_does(
    change: Callable[[nn.Module], nn.Module], message: str, run: Path, model: nn.Module
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ValueError, match=f"the model is not what its config describes, and would not load: .*{message}"):
        run_folder.save(change(model), run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_files_are_for_whom_the_umask_says(umask: int, tmp_path: Path, model: nn.Module) -> None:
    before = os.umask(umask)
    try:
        run_folder.save(model, tmp_path / "run")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()} == {0o666 & ~umask}


def test_a_revision_of_a_repo_is_fetched(run: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        fetched.append((repo, revision))
        return str(run)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    for name in ("someone/a-model", "someone/a-model@v1.0", "someone/a-model@refs/pr/1"):
        assert run_folder.load(name).config == model.config
    assert fetched == [("someone/a-model", None), ("someone/a-model", "v1.0"), ("someone/a-model", "refs/pr/1")]


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with run_folder.locked(out):
        with pytest.raises(ValueError, match=f"run is being written by process {os.getpid()}: wait"), run_folder.locked(out):
            pass
        (out / "train.yaml").write_text("steps: 1")
        with pytest.raises(ValueError, match="being written by process"), run_folder.locked(out, resume=True):
            pass
    assert [path.name for path in out.iterdir()] == ["train.yaml"]
    with pytest.raises(ValueError, match="is not empty"), run_folder.locked(out):
        pass
    with run_folder.locked(out, resume=True):
        pass


def test_a_save_waits_for_nobody_and_disturbs_nobody(run: Path) -> None:
    """Another process that writes the run is named; within its own lock a process saves, however the folder is spelled."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with holder(run) as other, pytest.raises(ValueError, match=f"is being written by process {other.pid}: wait for it"):
        run_folder.save(build_model(OTHER), run)
    (run / ".lock").unlink()  # of the process that was killed
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (run / "train.yaml").write_text("steps: 1")
    with run_folder.locked(run, resume=True):
        run_folder.save(build_model(OTHER), run / ".." / run.name)
        with pytest.raises(ValueError, match=f"by process {os.getpid()}"), run_folder.locked(run, resume=True):
            pass
    second = build_model(OTHER)
    run_folder.save(second, run)
    assert not (run / ".lock").exists() and run_folder.load(run).config == second.config


def test_the_run_of_another_model_is_not_overwritten(run: Path) -> None:
    run_folder.save(build_model(OTHER), run)  # no training run
    (run / "train.yaml").write_text("steps: 1")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for other in (SMALL, {**OTHER, "max_len": 8}):
        with pytest.raises(ValueError, match="holds the training run of a language_model with another config: save to another folder"):
            run_folder.save(build_model(other), run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    again = build_model(OTHER)
    (run / "config.json").write_text(json.dumps(OTHER))  # with the defaults left out
    run_folder.save(again, run)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in run_folder.load(run).state_dict().items())


def test_where_there_are_no_locks_models_are_saved(tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    run_folder.save(model, tmp_path / "run")
    monkeypatch.undo()
    assert run_folder.load(tmp_path / "run").config == model.config


def test_a_run_that_comes_to_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_folder.locked(tmp_path / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()


def test_a_failed_run_is_not_a_wrong_input() -> None:
    assert not issubclass(RunError, ValueError)


def test_a_folder_whose_name_is_not_utf8_is_refused_before_training(model: nn.Module, tmp_path: Path) -> None:
    """safetensors cannot open a file there."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    with pytest.raises(ValueError, match="is not UTF-8, which safetensors needs: rename it, or give another"):
        run_folder.check_out(folder)
    with pytest.raises(ValueError, match="is not UTF-8"):
        run_folder.save(model, folder)
    assert not folder.exists()
    run_folder.save(model, tmp_path / "run")
    (tmp_path / "run").rename(folder)
    with pytest.raises(ValueError, match="is not UTF-8"):
        run_folder.load(folder)


def test_two_saves_of_a_model_are_the_same_bytes(model: nn.Module, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_folder.save(model, tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) == 3
