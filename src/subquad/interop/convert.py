"""Official checkpoint files converted to run folders of this library. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from subquad import run_folder
from subquad.data.tokenizer import open_tokenizer
from subquad.errors import RunError
from subquad.hub import fetched, repository
from subquad.interop.m2_bert import encoder_in, set_padding
from subquad.interop.official import KINDS, Kind, from_official, guess_kind, ignored_options, kind_of
from subquad.interop.unwrap import unwrap
from subquad.models.base import Model
from subquad.parsing import parse_json, parse_yaml, read_text, shortened

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".ckpt", ".bin")
INDEX = ".index.json"  # of a checkpoint in several files
# Names that transformers gives to one checkpoint, the first that is there; a folder often has the same weights in several of them.
NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
FROM_HUB = (run_folder.CONFIG, run_folder.TOKENIZER, "*.safetensors", f"*{INDEX}")


def convert(
    src: str | Path,
    kind: str | None,
    out: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    padding: Literal["masked", "official"] = "masked",
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Makes a run folder of an official checkpoint and returns it; the model in it is one of ours and does all that ours do.

    ``src``: a .safetensors, .pt, .pth, .ckpt or .bin file, the .index.json of a sharded checkpoint, a folder that holds one, or a
    repository of the Hugging Face hub, "org/name" or "org/name@revision". ``kind``: None where the config tells it, as on the hub.
    ``config``: the official config, as a mapping or a .json or .yaml file; by default config.json beside the weights. ``tokenizer``: a
    tokenizer.json to keep with the model, or "dna", which a HyenaDNA has without being asked; by default that of the repository.
    ``padding``: an encoder of ours keeps padding out of its results; "official" lets it in, as the original does. ``tell`` is called with
    what was unwrapped and what was ignored. ``out`` must be new or empty. Raises ``ValueError`` for wrong input and ``RunError`` for a file
    that is damaged or asks to run code.
    """
    if kind is not None:
        _whole_model(kind)
    if run_folder.holds_files(out):
        raise ValueError(f"{out} is not empty: give another --out")
    repo = repository(src)
    folder = Path(src) if repo is None else _from_hub(*repo)
    files = checkpoint_files(folder)
    options = read_official_config(config if config is not None else files[0].parent / run_folder.CONFIG, config is None)
    if repo is not None and tokenizer is None and (folder / run_folder.TOKENIZER).is_file():
        tokenizer = folder / run_folder.TOKENIZER
    notes: list[str] = []
    model = official_model(kind, options, read_checkpoint(files), notes.append)
    if padding != "masked":
        if padding != "official" or encoder_in(model) is None:
            raise ValueError(f'padding is "masked", or "official" for an encoder, got {padding!r}: leave it out')
        set_padding(model, padding)
    if tokenizer is not None:
        set_tokenizer(model, tokenizer)
    run_folder.check_out(out)
    run_folder.save(model, out)
    for note in notes:
        tell(note)
    return Path(out)


def official_model(
    kind: str | None, config: Mapping[str, Any], state: Mapping[str, Any], tell: Callable[[str], None] = lambda text: None
) -> Model:
    """The model of ours of an official config and checkpoint; raises ``ValueError`` for what does not fit, and for an unknown kind."""
    kind = guess_kind(config) if kind is None else kind
    if kind is None:
        raise ValueError(f"the config does not say what kind of checkpoint it is of: name it with --from ({', '.join(_models())})")
    official = _whole_model(kind)
    tensors, notes = unwrap(state)
    if not tensors:
        raise ValueError("the checkpoint holds no tensors: give the file of the weights")
    if meta := next((name for name, tensor in tensors.items() if tensor.is_meta), None):
        raise ValueError(f"the checkpoint holds {meta} on the meta device, a shape without numbers: save it from a model with weights")
    assert official.model is not None
    model = official.model(from_official(kind, config, tensors))
    for note in notes:
        tell(note)
    if options := ignored_options(kind, config):
        tell(f"ignored options, which change no result here: {', '.join(options)}")
    if official.tokenizer is not None:
        set_tokenizer(model, official.tokenizer)
    return model


def set_tokenizer(model: Model, source: str | Path) -> None:
    """Gives a model its tokenizer; raises ``ValueError`` for one that has more ids than the model."""
    model.tokenizer = open_tokenizer(source, reversible=model.reversible)
    if model.tokenizer.vocab > model.vocab:
        raise ValueError(f"{source} has {model.tokenizer.vocab} tokens, but the model {model.vocab} ids: give the model's own")


def read_checkpoint(files: Sequence[Path]) -> dict[str, Any]:
    """What the files of one checkpoint hold together; raises ``RunError`` as ``read_state``, and for a tensor that is in two files."""
    if len(files) == 1:
        return read_state(files[0])
    state: dict[str, Any] = {}
    for path in files:
        part = read_state(path)
        if twice := next((name for name in part if name in state), None):
            raise RunError(f"{path} holds {twice!r}, which another file of the checkpoint holds too: fetch the checkpoint again")
        state |= part
    return state


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds. Raises ``RunError`` for a damaged file, and for one whose pickle holds more than tensors."""
    if path.suffix in SAFE:
        return dict(run_folder.read_tensors(path))
    try:
        with warnings.catch_warnings(action="ignore"):  # on a pickle by another protocol
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        raise RunError(
            f"{path} holds {unsafe[0] if unsafe else 'more than tensors'}, and reading that could run code from the file, so it is "
            "refused: where you trust it, save its state dict alone as .safetensors"
        ) from error
    except Exception as error:  # there is no end to how a damaged pickle can fail
        raise RunError(f"{path} is truncated or not a checkpoint of PyTorch ({type(error).__name__}): restore it from a copy") from error
    if not isinstance(state, Mapping):
        raise RunError(f"{path} holds a {type(state).__name__}, expected a state dict")
    return dict(state)


def checkpoint_files(src: Path) -> list[Path]:
    """The file, or the files of a sharded checkpoint, that ``src`` is or holds. Raises ``ValueError`` for none, or more than one."""
    suffixes = SAFE + PICKLED
    if not src.exists():
        raise ValueError(
            f"{str(src)!r} does not exist: expected a checkpoint file ({', '.join(suffixes)}), a folder that holds one, or a repository "
            "of the Hugging Face hub, as org/name"
        )
    if src.is_dir():
        if known := next((src / name for name in NAMES if (src / name).is_file()), None):
            return checkpoint_files(known)
        files = sorted(path for path in src.iterdir() if path.suffix in suffixes)
        if len(files) != 1:
            names = ", ".join(path.name for path in files) or "none"
            raise ValueError(f"expected one checkpoint file ({', '.join(suffixes)}) in the folder {str(src)!r}, got {names}: name the file")
        return files
    if src.name.endswith(INDEX):
        return _shards(src)
    if src.suffix not in suffixes:
        raise ValueError(f"{str(src)!r} is not a checkpoint file: give one whose name ends in {', '.join(suffixes)}, {INDEX}")
    return [src]


def read_official_config(config: str | Path | Mapping[str, Any], default: bool) -> Mapping[str, Any]:
    """The official options of a mapping or a file; ``default`` says that nobody named it. Raises ``ValueError`` in words."""
    if isinstance(config, Mapping):
        return config
    path = Path(config)
    if not path.is_file():
        what = f"there is no {path.name} beside the weights" if default else f"there is no config {str(path)!r}"
        raise ValueError(f"{what}: give the official config, a .json or .yaml file of its options, with --config")
    try:
        text = read_text(path)
        values = parse_yaml(text) if path.suffix in (".yaml", ".yml") else parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a config: {shortened(str(error))}") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected a mapping of official options")
    return values


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all beside it."""
    try:
        names = set(parse_json(read_text(index))["weight_map"].values())
        plain = all(Path(name).name == name and Path(name).suffix in SAFE + PICKLED for name in names)
    except (ValueError, KeyError, TypeError, AttributeError):
        names, plain = set(), False
    if not names or not plain:
        raise ValueError(f"{index} is not the index of a sharded checkpoint: expected a weight_map of names of tensors and files beside it")
    files = [index.parent / name for name in sorted(names)]
    if gone := [path.name for path in files if not path.is_file()]:
        raise ValueError(f"{index} names {', '.join(gone[:8])}, which {'is' if len(gone) == 1 else 'are'} not beside it: fetch all shards")
    return files


def _from_hub(repo: str, revision: str | None) -> Path:
    """A local copy of a repository: of its safetensors, or where it has none of its pickles, which are read as tensors alone."""
    folder = fetched(repo, revision, FROM_HUB)
    if any(folder.glob("*.safetensors")):
        return folder
    return fetched(repo, revision, [*FROM_HUB, *(f"*{suffix}" for suffix in PICKLED)])


def _models() -> list[str]:
    return [name for name, kind in KINDS.items() if kind.model is not None]


def _whole_model(kind: str) -> Kind:
    official = kind_of(kind)
    if official.model is None:
        raise ValueError(
            f"{kind} is a layer, not a whole model, so it cannot be converted to a run: use subquad.from_official in Python (models: "
            f"{', '.join(_models())})"
        )
    return official
