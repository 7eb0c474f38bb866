"""Small hostile files: none takes long, much memory, or runs code; each is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import subquad
from subquad import run_folder
from subquad.cli import main
from subquad.config import read_yaml
from subquad.data.tokenizer import open_tokenizer
from subquad.errors import RunError
from subquad.parsing import MAX_VALUES, check_sizes, parse_json, parse_yaml, shortened

BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 30))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    subquad.save(subquad.build("transformer-tiny", {"stack.depth": 1, "stack.dim": 8, "stack.mixer.heads": 2}), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "text", [BOMB, MERGES, "a: &a [*a]", "a: " + "[" * 1000 + "]" * 1000, "a: " + "[" * 100_000, "a: 2024-99-99", "a: !!int x"]
)
def test_yaml_that_never_ends_or_cannot_be_read_is_one_short_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path} cannot be read as YAML: ")
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_aliases_within_the_limit_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}] * 2}
    assert parse_yaml("") is None
    assert MAX_VALUES >= 100_000


def test_yaml_with_control_characters_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="special characters are not allowed"):
        parse_yaml("a: b\x00c\n")


@pytest.mark.parametrize(
    "text", ["[" * 1_000, "[" * 1000 + "]" * 1000, "[" * 200_000 + "]" * 200_000, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 5000]
)
def test_json_that_is_nested_too_deep_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000])
@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_run_folder_with_nested_json_is_refused(name: str, text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / name).write_text(text)
    assert main(["score", str(run), __file__]) == 1
    error = capsys.readouterr().err
    assert name in error and "internal" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("depth", 10**9, "stack.depth is 1000000000, but the weights have only"),
        ("dim", 10**18, "stack.dim is 1000000000000000000, expected a number up to"),
        ("dim", 1 << 40, "config.json"),
        ("norm_eps", float("inf"), "stack.norm_eps is inf, expected a finite number"),
        ("norm_eps", float("nan"), "stack.norm_eps is nan, expected a finite number"),
        ("new_thing", 3, "a newer version may have written it: pip install --upgrade subquad"),
    ],
)
def test_absurd_numbers_of_a_config_are_refused_before_anything_is_built(key: str, value: float, message: str, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["stack"][key] = value
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=message):
        run_folder.load(run, verify=False)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64, torch.uint8])
@pytest.mark.parametrize("all_of_them", [True, False])
def test_weights_of_types_that_layers_do_not_compute_in_are_refused(dtype: torch.dtype, all_of_them: bool, run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    names = list(tensors) if all_of_them else list(tensors)[-1:]
    save_file(tensors | {name: tensors[name].to(dtype) for name in names}, run / "model.safetensors")
    with pytest.raises(RunError, match="expected all weights in one of F32, F64, BF16, F16"):
        run_folder.load(run, verify=False)


def test_weights_of_mixed_types_are_refused_and_of_one_type_load(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, run / "model.safetensors")
    assert {tensor.dtype for tensor in run_folder.load(run, verify=False).state_dict().values()} == {torch.bfloat16}
    first = next(iter(tensors))
    save_file(tensors | {first: tensors[first].half()}, run / "model.safetensors")
    with pytest.raises(RunError, match=r"in F32 and \S+ in F16: expected all|in F16 and \S+ in F32: expected all"):
        run_folder.load(run, verify=False)


def test_a_file_that_the_manifest_lists_and_is_not_there_is_missing(run: Path) -> None:
    (run / "model.safetensors").rename(run / "gone")
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        run_folder.load(run)
    from subquad.manifest import check

    with pytest.raises(RunError, match=r"model\.safetensors is missing, but manifest\.json lists it"):
        check(run)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"type": "BPE", "vocab": {"a": 10**10}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}}, "ids are not from 0 to"),
        ({"model": {"vocab": {"a": -1}}, "pre_tokenizer": {"type": "ByteLevel"}}, "ids are not from 0 to"),
        ({"model": {"vocab": {"a": "b"}}}, "is not a tokenizer.json"),
        ({"model": {"vocab": {"a": [1]}}}, "is not a tokenizer.json"),
        ({"model": {"vocab": 7}}, "is not a tokenizer.json"),
        ({"model": {"vocab": {"a": 1}}, "added_tokens": [{"id": 10**12, "content": "b"}]}, "ids are not from 0 to"),
        ({"type": "characters", "tokens": [str(n) for n in range(300)], "unknown": "0", "unknown_as": "N"}, "300 tokens, at most 256"),
        ({"type": "characters", "tokens": ["\ud800"], "unknown": "\ud800", "unknown_as": "N"}, "is not a vocabulary of characters"),
    ],
)
def test_a_tokenizer_with_absurd_ids_is_refused_at_once(values: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_a_panic_of_the_package_names_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As PyO3 raises it: no ``Exception``."""

    class Package:
        class Tokenizer:
            @staticmethod
            def from_str(content: str) -> None:
                raise PanicException("called `Result::unwrap()` on an `Err` value")

    values = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json", reversible=False)
    monkeypatch.setattr("subquad.data.tokenizer.package", lambda: Package)
    with pytest.raises(ValueError, match="the package tokenizers fails on .*tokenizer.json .called"):
        tokenizer.encode(b"a")


def test_messages_show_a_part_of_a_large_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as caught:
        subquad.build("transformer-tiny", {"stack.dim": list(range(100_000))})
    assert len(str(caught.value)) < 1000
    with pytest.raises(ValueError) as caught:
        subquad.build("transformer-tiny", {"x" * 1_000_000: 1})
    assert main(["train", "transformer-tiny", "--data", ".", "--out", "x", "--set", "optim.lr=" + "[" * 100_000]) == 2
    assert len(capsys.readouterr().err) < 1000
    assert shortened("a\nb") == "a b" and shortened("x" * 1000, 20) == "x" * 16 + " ..."


def test_sizes_are_named_by_their_key() -> None:
    check_sizes({"a": [1, 2.5, None, True, "x"], "depth": 3}, 3, ("depth",))
    with pytest.raises(ValueError, match=r"^stages\.0\.depth is 4, but the weights have only 3 tensors$"):
        check_sizes({"stages": [{"depth": 4}]}, 3, ("depth",))
