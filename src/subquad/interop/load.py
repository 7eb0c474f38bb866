"""Models by path or by the name of a repository of the Hugging Face hub, ours or official ones."""

from __future__ import annotations

from pathlib import Path

import torch

from subquad import run_folder
from subquad.errors import RunError
from subquad.hub import fetched, repository
from subquad.interop.convert import FROM_HUB, SAFE, checkpoint_files, official_model, read_checkpoint, read_official_config, set_tokenizer
from subquad.manifest import MANIFEST
from subquad.models.base import Model


def load(path: str | Path, device: str | torch.device = "cpu", verify: bool = True) -> Model:
    """The model of a run folder, or of a repository of the Hugging Face hub, "org/name" or "org/name@revision", in eval mode.

    A repository may be a run folder, with its manifest or without one, or hold an official checkpoint whose config.json says its kind
    (HyenaDNA, M2-BERT), in safetensors alone. Otherwise as ``run_folder.load``.
    """
    repo = repository(path)
    if repo is None:
        return run_folder.load(path, device, verify)
    folder = fetched(*repo, (*FROM_HUB, run_folder.TRAIN, MANIFEST))
    try:
        config = read_official_config(folder / run_folder.CONFIG, True)
        if "kind" in config or (folder / MANIFEST).is_file():
            return run_folder.load(folder, device, verify and (folder / MANIFEST).is_file())
        files = checkpoint_files(folder)
        if any(file.suffix not in SAFE for file in files):
            raise ValueError("it has no safetensors: convert it with subquad convert, which reads pickles as tensors alone")
        model = official_model(None, config, read_checkpoint(files))
        if (folder / run_folder.TOKENIZER).is_file():
            set_tokenizer(model, folder / run_folder.TOKENIZER)
    except ValueError as error:
        raise RunError(f"{path} on the Hugging Face hub cannot be loaded: {error}") from error
    return model.to(run_folder.resolve_device(device))
