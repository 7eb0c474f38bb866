"""A run folder on disk: config.json, model.safetensors, and manifest.json with the sha256 of its files, checked on load.

A token model has its tokenizer.json beside them.

Every file is written under a temporary name and renamed. A file that the manifest already covers is replaced in three steps: the
manifest admits the new hash beside the old one (key "replacing"), the file is renamed, the manifest forgets the old hash. So the folder
loads whatever moment the process is killed. The header of model.safetensors repeats the config, for a kill between the two renames of a
``save`` that changes both, and names the sha256 of the tokenizer.json that belongs to it, so that no other is taken for it. Nothing is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from subquad import models
from subquad.config import Config
from subquad.data.tokenizer import AnyTokenizer, open_tokenizer
from subquad.errors import RunError
from subquad.models.base import Model
from subquad.system import Content, sync, temporary_path, write, write_atomic

CONFIG, WEIGHTS, TRAIN, MANIFEST = "config.json", "model.safetensors", "train.yaml", "manifest.json"
TOKENIZER = "tokenizer.json"

Shape = tuple[int, ...]


class Manifest(NamedTuple):
    """The sha256, in hex, of a folder's files by name, and of those that are about to take the place of one."""

    files: dict[str, str]
    replacing: dict[str, str]

    def admits(self, name: str, digest: str) -> bool:
        """Whether a file of that name may have that hash."""
        return digest in (self.files.get(name), self.replacing.get(name))


def save(model: nn.Module, path: str | Path) -> None:
    """Writes config.json, model.safetensors and manifest.json into a folder, made if need be; what was there loads until the new does.

    A model that has a ``tokenizer`` writes its tokenizer.json; one without removes that of a model that was there.

    Raises ``ValueError`` for a module that has no ``config``, ``OSError`` when the disk refuses.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(_config_of(model))
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    tokenizer = getattr(model, "tokenizer", None)
    own: dict[str, Content] = {} if tokenizer is None else {TOKENIZER: tokenizer.to_bytes()}
    belonging = {} if tokenizer is None else {TOKENIZER: hashlib.sha256(tokenizer.to_bytes()).hexdigest()}
    weights = tensor_file(tensors, {"format": "pt", "config": config, **belonging})
    replace(folder, {**own, WEIGHTS: weights, CONFIG: as_json(json.loads(config))})
    if tokenizer is None and (folder / TOKENIZER).exists():
        _write_manifest(folder, Manifest({name: digest for name, digest in _settled(folder).items() if name != TOKENIZER}, {}))
        (folder / TOKENIZER).unlink()


def load(path: str | Path, device: str | torch.device = "cpu", verify: bool = True) -> nn.Module:
    """The model of a run folder, or of a Hugging Face repo id "org/name" when there is no such folder, in eval mode.

    ``device`` "auto" is the GPU if there is one. With a tokenizer.json in the folder the model has it as ``tokenizer``. ``verify``
    compares config.json, model.safetensors, tokenizer.json and train.yaml with the manifest. Weights keep the type they were saved in.
    Raises ``RunError``, in one sentence, for a folder that is no run, a damaged file, or weights that do not fit the config, and
    ``ValueError`` for a device that is not there.
    """
    device = resolve_device(device)
    folder = _folder(path)
    if verify:
        covered = read_manifest(folder).files
        check(folder, [CONFIG, WEIGHTS, *(name for name in (TOKENIZER, TRAIN) if (folder / name).exists() and name in covered)])
    config = read_config(folder)
    try:
        with torch.device("meta"):
            model: nn.Module = models.build_model(config)
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder / CONFIG} does not describe a model of this version: {error}") from error
    tensors = read_tensors(folder / WEIGHTS, state_shapes(model), device)
    model.load_state_dict(tensors, assign=True)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    if isinstance(model, Model):
        model.tokenizer = _tokenizer(folder, model)
    return model.eval()


def check_out(out: str | Path, resume: bool = False) -> None:
    """Raises ``ValueError`` unless a run can be written to ``out``, or resumed there; makes the folder, and no file."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for the run: give another --out")
    if resume:
        if not (out / TRAIN).is_file():
            raise ValueError(f"{out} holds no run to resume: expected a {TRAIN} there; give the folder of a run")
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give another --out, or go on with the run there by --resume")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to {out} ({error.strerror}): give another --out") from error


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one. Raises ``ValueError`` for one that PyTorch does not know or see."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {str(name)!r} cannot be used: expected auto, cpu, or a GPU that PyTorch sees: cuda, cuda:1") from None
    return device


def load_weights(model: nn.Module, path: str | Path, verify: bool = True) -> None:
    """Copies the weights of a run folder into a model of the same shapes, in place; raises ``RunError`` like ``load``."""
    folder = _folder(path)
    if verify:
        check(folder, [WEIGHTS])
    model.load_state_dict(read_tensors(folder / WEIGHTS, state_shapes(model)))


def read_config(folder: Path) -> dict[str, Any]:
    """The model config of a run folder as a mapping; raises ``RunError`` when it cannot be read."""
    if _is_replacing(folder, CONFIG):
        with _opened(folder / WEIGHTS) as file:
            if "config" in (metadata := file.metadata() or {}):
                return _mapping(metadata["config"], folder / WEIGHTS)
    return _mapping(_text(folder / CONFIG), folder / CONFIG)


def replace(folder: Path, contents: Mapping[str, Content]) -> None:
    """Writes files of a folder so that, killed at any moment, each is the old or the new one and the manifest admits it."""
    known = _settled(folder)
    temporary = {name: temporary_path(folder / name) for name in contents}
    try:
        for name, content in contents.items():
            write(temporary[name], content)
        new = {name: sha256(path) for name, path in temporary.items()}
        _write_manifest(folder, Manifest(known, new))
        for name, path in temporary.items():
            path.replace(folder / name)
    except BaseException:
        for path in temporary.values():
            path.unlink(missing_ok=True)
        raise
    sync(folder)
    _write_manifest(folder, Manifest(known | new, {}))


def seal(folder: str | Path, names: Iterable[str] | None = None) -> None:
    """Makes the manifest cover exactly the files named, or every file of the folder: what nothing will change from here on.

    Hashes that it already holds for the files named are kept, so a file damaged since it was written is not blessed; without names
    all are computed anew, except those of config.json, model.safetensors, tokenizer.json and train.yaml.
    """
    folder = Path(folder)
    known = _settled(folder)
    kept = known if names is not None else {name: known[name] for name in (CONFIG, WEIGHTS, TOKENIZER, TRAIN) if name in known}
    covered = _files(folder) if names is None else [name for name in names if (folder / name).is_file()]
    _write_manifest(folder, Manifest({name: kept.get(name) or sha256(folder / name) for name in covered}, {}))


def check(folder: Path, names: Iterable[str] | None = None) -> None:
    """Compares files with the manifest, all of its files without ``names``; raises ``RunError`` that names what is damaged."""
    names = None if names is None else list(names)
    while True:
        manifest = read_manifest(folder)
        damaged = [name for name in names or manifest.files if not manifest.admits(name, _digest(folder / name))]
        # A run that is still training may have replaced a file after its manifest was read: then the manifest has changed too.
        if not damaged or read_manifest(folder) == manifest:
            break
    if damaged:
        raise RunError(
            f"{', '.join(str(folder / name) for name in damaged)} is damaged: its sha256 is not the one in {MANIFEST}; "
            "restore it from a copy, or load it as it is in Python with subquad.load(path, verify=False)"
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; raises ``RunError`` when it is missing or unreadable."""
    path = folder / MANIFEST
    if not path.exists():
        raise RunError(f"{folder} has no {MANIFEST}, so its files cannot be checked: load(path, verify=False) in Python does without")
    values = _mapping(_text(path), path)
    files, replacing = values.get("files"), values.get("replacing", {})
    if not isinstance(files, dict) or not isinstance(replacing, dict):
        raise RunError(
            f"{path} is damaged: expected an object 'files' of names and sha256; load(path, verify=False) in Python does without"
        )
    return Manifest(files, replacing)


def read_tensors(path: Path, expected: Mapping[str, Shape] | None = None, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file; names and shapes are compared with those expected before any is read.

    Raises ``RunError`` for a truncated file and for unknown, missing or misshapen tensors, which it lists.
    """
    with _opened(path) as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if expected is not None:
            _compare(path, found, expected)
        # Mapped memory starts where the file says; a copy has torch's own alignment, on which the last bits of a product may depend.
        return {name: file.get_tensor(name).clone().to(device) for name in found}


def state_shapes(model: nn.Module) -> dict[str, Shape]:
    """Names and shapes of what a checkpoint of the model holds."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def tensor_file(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Content:
    """What ``write_atomic`` and ``replace`` take to write a safetensors file; a failing disk is an ``OSError``."""

    def save(path: Path) -> None:
        try:
            save_file(tensors, path, metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(str(error)) from error

    return save


def as_json(value: object) -> bytes:
    """A JSON file, indented, with a final newline."""
    return (json.dumps(value, indent=2) + "\n").encode("utf-8")


def sha256(path: Path) -> str:
    """The sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    values = {"files": dict(sorted(manifest.files.items()))}
    if manifest.replacing:
        values["replacing"] = dict(sorted(manifest.replacing.items()))
    write_atomic(folder / MANIFEST, as_json(values))


def _settled(folder: Path) -> dict[str, str]:
    """The hashes of the manifest, with a replacement that a killed process left open decided by what is on disk."""
    if not (folder / MANIFEST).exists():
        return {}
    manifest = read_manifest(folder)
    done = {name: digest for name, digest in manifest.replacing.items() if _digest(folder / name) == digest}
    return manifest.files | done


def _is_replacing(folder: Path, name: str) -> bool:
    try:
        return name in read_manifest(folder).replacing
    except RunError:  # a folder that is loaded without the check may have no manifest, or a damaged one
        return False


def _digest(path: Path) -> str:
    return sha256(path) if path.is_file() else "missing"


def _files(folder: Path) -> list[str]:
    """Every file below a folder by its relative name, without its own manifest and without temporary ones."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name.as_posix() for name in names if name.as_posix() != MANIFEST and not any(part.startswith(".") for part in name.parts)]


def _config_of(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    if not isinstance(config, Config):
        raise ValueError(f"expected a model of this library, which has a config, got {type(model).__name__}")
    return config.model_dump(mode="json")


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.exists() and isinstance(path, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not folder.parent.exists():
        return _fetched(path)
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        what = f"it has no {' and no '.join(missing)}" if folder.is_dir() else "there is no such folder"
        raise RunError(f"{folder} is not a run folder: {what}; give the folder that `subquad train --out` wrote")
    return folder


def _tokenizer(folder: Path, model: Model) -> AnyTokenizer | None:
    path = folder / TOKENIZER
    if not path.exists():
        return None
    try:
        tokenizer = open_tokenizer(path, reversible=model.reversible)
    except ValueError as error:
        raise RunError(str(error)) from error
    with _opened(folder / WEIGHTS) as file:
        belongs = (file.metadata() or {}).get(TOKENIZER)  # none where the file was put there by hand
    if tokenizer.vocab > model.vocab or belongs not in (None, sha256(path)):
        raise RunError(f"{path} belongs to another model than {WEIGHTS}: restore the one that was saved with it")
    return tokenizer


def _fetched(repo: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise RunError(f"there is no folder {repo}; to fetch it from Hugging Face: pip install 'subquad[hf]'") from error
    try:
        return Path(snapshot_download(repo, allow_patterns=[CONFIG, WEIGHTS, TOKENIZER, TRAIN, MANIFEST]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{repo} is no folder here and could not be fetched from Hugging Face: {reason}") from error


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is truncated or damaged ({error}): restore it from a copy") from error


def _compare(path: Path, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unknown {name}" for name in found if name not in expected]
    wrong += [f"{name} has shape {found[name]}, expected {shape}" for name, shape in expected.items() if found.get(name, shape) != shape]
    if wrong:
        shown = "; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise RunError(f"{path} does not fit the model that its config describes: {shown}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _mapping(text: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path} is no JSON ({error}): restore it from a copy") from error
    if not isinstance(values, dict):
        raise RunError(f"{path} holds a {type(values).__name__}, expected an object")
    return values
