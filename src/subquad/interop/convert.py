"""Official checkpoint files converted to run folders of this library. Nothing in a file is ever executed."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from subquad import run_folder
from subquad.data.tokenizer import open_tokenizer
from subquad.errors import RunError
from subquad.interop.m2_bert import encoder_in, set_padding
from subquad.interop.official import KINDS, from_official, kind_of

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".ckpt", ".bin")


def convert(
    src: str | Path,
    kind: str,
    out: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    padding: Literal["masked", "official"] = "masked",
) -> Path:
    """Makes a run folder of an official checkpoint and returns it; the model in it is one of ours and does all that ours do.

    ``src``: a .safetensors, .pt, .pth, .ckpt or .bin file, or a folder that holds one. ``config``: the official config, as a mapping or a
    .json or .yaml file; by default config.json beside the weights. ``tokenizer``: a tokenizer.json to keep with the model, or "dna", which
    a HyenaDNA has without being asked. ``padding``: an encoder of ours keeps padding out of its results; "official" lets it in, as the
    original does. ``out`` must be new or empty. Raises ``ValueError`` for wrong input and ``RunError`` for a file that is damaged or asks
    to run code.
    """
    official = kind_of(kind)
    if official.model is None:
        whole = ", ".join(name for name, known_kind in KINDS.items() if known_kind.model is not None)
        raise ValueError(
            f"{kind} is a layer, not a whole model, so it cannot be converted to a run: use subquad.from_official in Python (models: "
            f"{whole})"
        )
    if run_folder.holds_files(out):
        raise ValueError(f"{out} is not empty: give another --out")
    weights = _weights_file(Path(src))
    options = _config(config if config is not None else weights.parent / run_folder.CONFIG, config is None)
    model = official.model(from_official(kind, options, read_state(weights)))
    if padding != "masked":
        if padding != "official" or encoder_in(model) is None:
            raise ValueError(f'padding is "masked", or "official" for an encoder, got {padding!r} for {kind}: leave it out')
        set_padding(model, padding)
    tokenizer = official.tokenizer if tokenizer is None else tokenizer
    if tokenizer is not None:
        model.tokenizer = open_tokenizer(tokenizer, reversible=model.reversible)
        if model.tokenizer.vocab > model.vocab:
            raise ValueError(f"{tokenizer} has {model.tokenizer.vocab} tokens, but the model {model.vocab} ids: give the model's own")
    run_folder.check_out(out)
    run_folder.save(model, out)
    return Path(out)


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


def _weights_file(src: Path) -> Path:
    """The one checkpoint file that ``src`` is or holds."""
    suffixes = SAFE + PICKLED
    if not src.exists():
        raise ValueError(f"{str(src)!r} does not exist: expected a checkpoint file ({', '.join(suffixes)}) or a folder that holds one")
    if src.is_file() and src.suffix not in suffixes:
        raise ValueError(f"{str(src)!r} is not a checkpoint file: give one whose name ends in {', '.join(suffixes)}")
    files = [src] if src.is_file() else sorted(path for path in src.iterdir() if path.suffix in suffixes)
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise ValueError(f"expected one checkpoint file ({', '.join(suffixes)}) in the folder {str(src)!r}, got {names}: name the file")
    return files[0]


def _config(config: str | Path | Mapping[str, Any], default: bool) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    path = Path(config)
    if not path.is_file():
        what = f"there is no {path.name} beside the weights" if default else f"there is no config {str(path)!r}"
        raise ValueError(f"{what}: give the official config, a .json or .yaml file of its options, with --config")
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as a config: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected a mapping of official options")
    return values
