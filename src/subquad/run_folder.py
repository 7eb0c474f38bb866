"""A run folder on disk: config.json, model.safetensors, and manifest.json with the sha256 of its files, checked on load.

A token model has its tokenizer.json beside them; the header of model.safetensors has the sha256 of the tokenizer that belongs to it.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from subquad import models
from subquad.config import Config
from subquad.data.tokenizer import AnyTokenizer, open_tokenizer
from subquad.errors import RunError
from subquad.hub import fetched, repository
from subquad.manifest import (
    MANIFEST,
    check,
    digest_of,
    newest,
    read_manifest,
    read_mapping,
    read_while_written,
    replace,
    settle,
    write_manifest,
)
from subquad.models.base import BaseModelConfig, Model, layers_of_wrapping, unwrap
from subquad.models.meta import build_on_meta
from subquad.parsing import check_sizes, shortened
from subquad.system import Content, as_json, lock, lock_unless_held

CONFIG, WEIGHTS, TOKENIZER, TRAIN = "config.json", "model.safetensors", "tokenizer.json", "train.yaml"

# What torch.compile, DDP, FSDP and checkpointing put into names.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

FLOATS = ("F32", "F64", "BF16", "F16")  # types of weights, as safetensors calls them
SAVED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # the same in PyTorch

Shape = tuple[int, ...]


def save(model: nn.Module, path: str | Path) -> None:
    """Writes config.json, model.safetensors and manifest.json into a folder, new or not; until all are complete the old model loads.

    A model that has a ``tokenizer`` writes its tokenizer.json; one without removes that of a model that was there. Of a model that is
    wrapped (``torch.compile``, DDP, FSDP), whole or in parts, the model itself is saved. Every rank of a sharded model calls this, and rank
    0 writes.
    Raises ``ValueError`` for a module that has no ``config``, or not the tensors of the model that its config describes, for weights that
    are not all of one floating-point type, for a folder
    whose name is not UTF-8, that another process is writing, or that holds the training run of another model; ``OSError`` when writing
    fails.
    """
    folder, inner = Path(path), unwrap(model)
    check_name(folder)
    config = _config_of(inner)
    values, sharded = _state(model)
    if sharded and torch.distributed.get_rank() != 0:
        return
    if wrong := _differences({name: _shape(value) for name, value in values.items()}, state_shapes(build_on_meta(config))):
        raise ValueError(
            f"the model is not what its config describes, and would not load: {wrong}; save the whole model, without modules that were "
            "added, removed or replaced (as by quantisation)"
        )
    tensors = {name: tensor.detach().contiguous() for name, tensor in values.items()}
    _check_one_type(tensors)
    tokenizer = getattr(inner, "tokenizer", None)
    vocabulary = None if tokenizer is None else tokenizer.to_bytes()
    metadata = {"format": "pt"} if vocabulary is None else {"format": "pt", TOKENIZER: hashlib.sha256(vocabulary).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    with lock_unless_held(folder) as training:
        if not training:
            _check_same_run(folder, config)
        replace(folder, {TOKENIZER: vocabulary, WEIGHTS: tensor_file(tensors, metadata), CONFIG: as_json(config)})


def load(path: str | Path, device: str | torch.device = "cpu", verify: bool = True) -> Model:
    """The model of a run folder, or of a Hugging Face repo "org/name" or "org/name@revision" when there is no such folder, in eval mode.

    ``device`` "auto" is the GPU if there is one. With a tokenizer.json in the folder the model has it as ``tokenizer``. ``verify``
    compares config.json, model.safetensors, tokenizer.json and train.yaml with the manifest. Weights keep the type they were saved in.
    Raises ``RunError``, in one sentence, for a folder that is not a run, a damaged file, or weights that do not fit the config, and
    ``ValueError`` for a device that is not there.
    """
    device, folder = resolve_device(device), _folder(path)

    def read() -> Model:
        _check_run(folder)
        if verify:
            covered = read_manifest(folder).files
            optional = [name for name in (TOKENIZER, TRAIN) if name in covered and newest(folder, name).exists()]
            check(folder, [CONFIG, WEIGHTS, *optional])
        weights = newest(folder, WEIGHTS)
        model = _described(folder, weights)
        tensors = read_tensors(weights, state_shapes(model), device)
        model.load_state_dict(tensors, assign=True)
        assert not any(tensor.is_meta for tensor in model.state_dict().values())
        model.tokenizer = _tokenizer(folder, model)
        return model.eval()

    return read_while_written(folder, read)


def load_weights(model: nn.Module, path: str | Path, verify: bool = True) -> None:
    """Copies the weights of a run folder into a model of the same shapes, in place; raises ``RunError`` like ``load``."""
    folder = _folder(path)

    def read() -> dict[str, Tensor]:
        _check_run(folder)
        if verify:
            check(folder, [WEIGHTS])
        return read_tensors(newest(folder, WEIGHTS), state_shapes(model))

    tensors = read_while_written(folder, read)
    model.load_state_dict({name: tensors[_unwrapped_name(name)] for name in model.state_dict()})


def load_config(path: str | Path) -> BaseModelConfig:
    """The model config of a run folder or of a Hugging Face repo, as ``load`` finds it; raises ``RunError`` like ``load``."""
    folder = _folder(path)

    def read() -> BaseModelConfig:
        _check_run(folder)
        try:
            return models.parse_model(read_config(folder))
        except ValueError as error:
            raise RunError(_of_another_version(folder, error)) from error

    return read_while_written(folder, read)


def read_config(folder: Path) -> dict[str, Any]:
    """The model config of a run folder as a mapping; raises ``RunError`` when it cannot be read."""
    return read_mapping(newest(folder, CONFIG))


def check_name(folder: Path) -> None:
    """Raises ``ValueError`` for a folder whose files safetensors cannot open."""
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"the name of the folder {folder} is not UTF-8, which safetensors needs: rename it, or give another") from None


def check_out(out: str | Path, resume: bool = False) -> None:
    """Raises ``ValueError`` unless a run can be written to ``out``, or resumed there; makes the folder, and no file."""
    out = Path(out)
    check_name(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for the run: give another --out")
    if resume:
        if not newest(out, TRAIN).is_file():
            raise ValueError(f"{out} is not a run to resume, because it has no {TRAIN}: give the folder of a run")
    elif holds_files(out):
        raise ValueError(f"{out} is not empty: give another --out, or resume the run there with --resume")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to {out} ({error.strerror}): give another --out") from error


@contextmanager
def locked(out: str | Path, resume: bool = False) -> Iterator[None]:
    """Makes this process the only writer of a run in ``out``, new or resumed; a folder that is empty in the end is removed.

    Raises ``ValueError`` as ``check_out`` does, and for a folder that another process is writing, whose id it names.
    """
    out = Path(out)
    check_out(out, resume)
    try:
        with lock(out):
            check_out(out, resume)  # another process may have written a run there since
            settle(out)
            yield
    finally:
        with suppress(OSError):
            out.rmdir()


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one. Raises ``ValueError`` for one that PyTorch does not know or see."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {str(name)!r} cannot be used: expected auto, cpu, or a GPU that PyTorch sees: cuda, cuda:1") from None
    return device


def holds_files(folder: str | Path) -> bool:
    """Whether the folder exists and has files other than hidden ones (locks, and unfinished files of a killed process)."""
    return Path(folder).is_dir() and any(not path.name.startswith(".") for path in Path(folder).iterdir())


def seal(folder: str | Path, names: Iterable[str] | None = None) -> None:
    """Makes the manifest cover exactly the named files, or every file of the folder; call it when they are final.

    Hashes that it already holds for the files named are kept, so a file that was damaged since is still noticed; without names
    all are computed again, except those of config.json, model.safetensors, tokenizer.json and train.yaml.
    """
    folder = Path(folder)
    hashes = settle(folder)
    if names is None:
        names, hashes = _files(folder), {name: hashes[name] for name in (CONFIG, WEIGHTS, TOKENIZER, TRAIN) if name in hashes}
    files = [name for name in names if (folder / name).is_file()]
    write_manifest(folder, {name: hashes.get(name) or digest_of(folder / name) for name in files})


def read_tensors(path: Path, expected: Mapping[str, Shape] | None = None, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file; names and shapes are compared with those expected before any is read.

    Raises ``RunError`` for a truncated file and for unknown, missing or misshapen tensors, which it lists.
    """
    with _opened(path) as file:
        names = {name if expected is None else _unwrapped_name(name): name for name in file.keys()}  # noqa: SIM118 (no mapping)
        if expected is not None:
            wrong = _differences({name: tuple(file.get_slice(stored).get_shape()) for name, stored in names.items()}, expected)
            if wrong:
                raise RunError(f"{path} does not fit the model that its config describes: {wrong}")
            _check_types(path, {name: file.get_slice(stored).get_dtype() for name, stored in names.items()})
        # Mapped memory starts where the file says; a copy has torch's own alignment, on which the last bits of a product may depend.
        return {name: file.get_tensor(stored).clone().to(device) for name, stored in names.items()}


def state_shapes(model: nn.Module) -> dict[str, Shape]:
    """Names and shapes of the tensors in a checkpoint of the model."""
    return {_unwrapped_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def tensor_file(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Content:
    """What ``replace`` and ``write_atomic`` take to write a safetensors file; a failing disk is an ``OSError`` in the library's words."""

    def save_tensors(path: Path) -> None:
        try:
            save_file(tensors, path, metadata)
        except SafetensorError as error:
            raise OSError(None, str(error), str(path)) from error
        path.chmod(path.parent.stat().st_mode & 0o666)  # as the umask has it, where the library makes a file for its owner alone

    return save_tensors


def _check_same_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for a folder that holds the training run of a model of another config; a damaged config may be replaced."""
    if not newest(folder, TRAIN).is_file():
        return
    try:
        values = read_config(folder)
    except RunError:
        return
    try:
        same = models.parse_model(values).model_dump(mode="json") == config
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"{folder} holds the training run of a {values.get('kind')} with another config: save to another folder")


def _unwrapped_name(name: str) -> str:
    """A parameter's name as it is without wrappers, around the model or inside of it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _files(folder: Path) -> list[str]:
    """Every file below a folder by its relative name, without its own manifest and without temporary ones."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name.as_posix() for name in names if name.as_posix() != MANIFEST and not any(part.startswith(".") for part in name.parts)]


def _state(model: nn.Module) -> tuple[dict[str, Any], bool]:
    """The state dict of the model inside of any wrappers, with whole tensors, and whether they were sharded."""
    modules = layers_of_wrapping(model)
    # The parameters of a module in FSDP are parts of one flat tensor, which the wrapper alone turns back.
    values = next(filter(_is_fsdp, modules), modules[-1]).state_dict()
    sharded = any(map(_is_fsdp, model.modules())) or any(hasattr(value, "full_tensor") for value in values.values())
    whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in values.items()}  # of DTensors
    return {_unwrapped_name(name): value for name, value in whole.items()}, sharded


def _is_fsdp(module: nn.Module) -> bool:
    return "_fsdp_wrapped_module" in dict(module.named_children())


def _shape(value: object) -> Shape | str:
    """The shape of a tensor that can be stored, or what it is instead."""
    if not isinstance(value, Tensor) or type(value.detach()) is not Tensor:
        return f"a {type(value).__name__}"
    return "on the meta device" if value.is_meta else tuple(value.shape)


def _config_of(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    if not isinstance(config, Config):
        raise ValueError(f"expected a model of this library, which has a config, got {type(model).__name__}")
    return config.model_dump(mode="json")


def _folder(path: str | Path) -> Path:
    """That folder, or the local copy of a repository of the Hugging Face hub."""
    repo = repository(path)
    return Path(path) if repo is None else fetched(*repo, [CONFIG, WEIGHTS, TOKENIZER, TRAIN, MANIFEST])


def _described(folder: Path, weights: Path) -> Model:
    """The model of a folder's config on the meta device; sizes that the weights cannot have are refused before anything is built."""
    config = read_config(folder)
    with _opened(weights) as file:
        tensors = len(file.keys())
    try:
        check_sizes(config, tensors, ("depth",))
        return build_on_meta(config)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # what torch says of a size beyond its integers
        raise RunError(_of_another_version(folder, error)) from error


def _of_another_version(folder: Path, error: Exception) -> str:
    newer = "; a newer version may have written it: pip install --upgrade subquad" if "unknown" in str(error) else ""
    return f"{folder / CONFIG} does not describe a model of this version: {shortened(str(error))}{newer}"


def _check_types(path: Path, types: Mapping[str, str]) -> None:
    """Raises ``RunError`` unless all tensors are of one type of floating-point numbers that layers compute in."""
    wrong = next((name for name, kind in types.items() if kind not in FLOATS), None)
    other = next((name for name, kind in types.items() if kind != next(iter(types.values()))), None)
    if wrong is not None or other is not None:
        name = wrong or str(other)
        mixed = "" if wrong is not None else f" and {next(iter(types))} in {next(iter(types.values()))}"
        raise RunError(f"{path} holds {name} in {types[name]}{mixed}: expected all weights in one of {', '.join(FLOATS)}, convert them")


def _check_one_type(tensors: Mapping[str, Tensor]) -> None:
    """Raises ``ValueError`` for tensors that ``load`` would refuse for their types."""
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    first = next(iter(kinds), "")
    for name, kind in kinds.items():
        if kind not in SAVED or kind != kinds[first]:
            mixed = f" and {first} is {kinds[first]}" if kind in SAVED else ""
            raise ValueError(f"{name} is {kind}{mixed}: expected all weights of one floating-point type, as after model.float()")


def _check_run(folder: Path) -> None:
    check_name(folder)
    missing = [name for name in (CONFIG, WEIGHTS) if not newest(folder, name).is_file()]
    if missing:
        what = f"it has no {' and no '.join(missing)}" if folder.is_dir() else "there is no such folder"
        raise RunError(f"{folder} is not a run folder: {what}; give the folder that `subquad train --out` wrote")


def _tokenizer(folder: Path, model: Model) -> AnyTokenizer | None:
    path = newest(folder, TOKENIZER)
    if not path.exists():
        return None
    try:
        tokenizer = open_tokenizer(path, reversible=model.reversible)
    except ValueError as error:
        raise RunError(str(error)) from error
    with _opened(newest(folder, WEIGHTS)) as file:
        saved_with = (file.metadata() or {}).get(TOKENIZER)  # none where the file was put there by hand
    if tokenizer.vocab > model.vocab or saved_with not in (None, digest_of(path)):
        raise RunError(f"{path} belongs to another model than {WEIGHTS}: restore the one that was saved with it")
    return tokenizer


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is truncated or damaged ({error}): restore it from a copy") from error


def _differences(shapes: Mapping[str, Shape | str], expected: Mapping[str, Shape]) -> str:
    """How tensors differ from those expected, in words; empty where they do not."""
    missing = [f"missing {name}" for name in expected if name not in shapes]
    unknown = [f"unknown {name}" for name in shapes if name not in expected]
    other = [f"{name} is {shapes[name]}, expected shape {shape}" for name, shape in expected.items() if shapes.get(name, shape) != shape]
    listed = missing[:8] + unknown[:8] + other[:8]
    more = len(missing) + len(unknown) + len(other) - len(listed)
    return "; ".join(listed) + (f"; and {more} more" if more else "")
