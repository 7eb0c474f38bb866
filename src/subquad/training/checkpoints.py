"""Rolling checkpoints that a run resumes from: state/step-00000100/, each complete, written under a temporary name and renamed."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from subquad import manifest, run_folder
from subquad.errors import RunError
from subquad.system import as_json, write_atomic, write_folder
from subquad.training.optim import optimizer_tensors, restore_optimizer

OPTIMIZER, PROGRESS = "optimizer.safetensors", "progress.json"


@dataclass(frozen=True)
class Counters:
    """How far a run is. ``samples`` is the data's whole state.

    ``best`` is the loss of the validation that was best, ``best_accuracy`` its accuracy, if it has one;
    ``waited`` counts the validations since then.
    """

    step: int = 0
    samples: int = 0
    bytes: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_accuracy: float | None = None
    best_step: int | None = None
    waited: int = 0

    def validated(self, loss: float, accuracy: float | None) -> Counters:
        """After a validation at this step. If there is an accuracy, a higher one is better, and then a lower loss."""
        if self.best is None or (-(accuracy or 0.0), loss) < (-(self.best_accuracy or 0.0), self.best):
            return replace(self, best=loss, best_accuracy=accuracy, best_step=self.step, waited=0)
        return replace(self, waited=self.waited + 1)


def save_state(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, counters: Counters, keep: int) -> Path:
    """Writes the checkpoint of a step and removes all but the last ``keep``; a failure leaves those that were there."""

    def fill(folder: Path) -> None:
        run_folder.save(model, folder)
        tensors = optimizer_tensors(model, optimizer) | _random_states()
        write_atomic(folder / OPTIMIZER, run_folder.tensor_file(tensors))
        write_atomic(folder / PROGRESS, as_json(asdict(counters)))
        run_folder.seal(folder)

    path = out / "state" / f"step-{counters.step:08d}"
    write_folder(path, fill)
    _prune(out, path, keep)
    return path


def newest_state(out: Path, tell: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest checkpoint whose files match its manifest, or None when there is none at all; tells of damaged ones.

    Raises ``RunError`` when all are damaged.
    """
    folders = _states(out)
    for folder in reversed(folders):
        try:
            manifest.check(folder)
        except RunError:
            tell(f"{folder} is damaged and left out")
        else:
            return folder
    if folders:
        raise RunError(f"every checkpoint in {out / 'state'} is damaged: restore one from a copy, or start a new run with --init {out}")
    return None


def restore_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Counters:
    """Restores weights, optimizer and random number generators from a checkpoint that ``newest_state`` has checked."""
    run_folder.load_weights(model, folder, verify=False)
    tensors = run_folder.read_tensors(folder / OPTIMIZER)
    torch.set_rng_state(tensors.pop("rng/cpu"))
    mps = tensors.pop("rng/mps", None)
    if mps is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(mps)
    for name in [name for name in tensors if name.startswith("rng/cuda:")]:
        number, state = int(name.rpartition(":")[2]), tensors.pop(name)
        if number < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, number)
    restore_optimizer(model, optimizer, tensors)
    return Counters(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))


def last_good(out: Path) -> str:
    """Where the newest sound checkpoint is, in words, for the end of an error sentence."""
    try:
        folder = newest_state(out)
    except RunError:
        folder = None
    return f"the last good checkpoint is {folder}" if folder else "there is no checkpoint yet"


def _random_states() -> dict[str, torch.Tensor]:
    states = {"rng/cpu": torch.get_rng_state()}
    if torch.backends.mps.is_available():
        states["rng/mps"] = torch.mps.get_rng_state()
    numbers = range(torch.cuda.device_count())
    return states | {f"rng/cuda:{number}": torch.cuda.get_rng_state(number) for number in numbers}


def _states(out: Path) -> list[Path]:
    return sorted(path for path in (out / "state").glob("step-*") if path.is_dir())


def _prune(out: Path, newest: Path, keep: int) -> None:
    """Removes old checkpoints, later ones that are damaged, and incomplete ones of a killed process."""
    states = _states(out)
    sound = [path for path in states if path.name <= newest.name]
    remove_unfinished(out)
    for path in (*sound[:-keep], *(path for path in states if path not in sound)):
        # A half-removed folder must not pass for a checkpoint.
        path.replace(path.with_name(f".{path.name}.old"))
    remove_unfinished(out)


def remove_unfinished(out: Path) -> None:
    """Removes what a killed process left of checkpoints that it was writing or removing."""
    for path in (out / "state").glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def resume_command(out: Path) -> str:
    """The command line that resumes a run."""
    return f"subquad train --resume --out {shlex.quote(str(out))}"
