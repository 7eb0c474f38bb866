"""What every campaign shares: a small run, commands in forked processes, and the tally of what was tried."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

from subquad.cli import main

TEXT = b"".join(f"line {number}: the quick brown fox jumps over the lazy dog\n".encode() for number in range(200))
MIXER = {"kind": "attention", "heads": 2}
CONFIG = {
    "model": {"kind": "language_model", "max_len": 64, "stack": {"dim": 16, "depth": 1, "mixer": MIXER}},
    "steps": 6,
    "batch": 2,
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
    "eval": {"every": 2, "windows": 2},
    "save": {"every": 2},
}


@dataclass
class Tally:
    """How many faults were injected, and what went wrong, one sentence for each."""

    name: str
    tried: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, condition: bool, what: str) -> None:
        """Notes ``what`` unless the condition holds."""
        if not condition:
            self.wrong.append(what)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, the negated signal that killed it, and what it printed to both streams."""

    status: int
    output: str


def prepare(folder: Path) -> None:
    """Writes the text and the config of the small run into a folder."""
    torch.set_num_threads(1)
    for name in (
        "subquad.api",
        "torch._dynamo",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
        "jinja2",
    ):
        with suppress(ImportError):  # what forks then need not import each
            importlib.import_module(name)
    (folder / "text.txt").write_bytes(TEXT)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")


def start(folder: Path, out: Path) -> list[str]:
    """The arguments that train the small run."""
    return ["train", str(folder / "config.yaml"), "--data", str(folder / "text.txt"), "--out", str(out)]


def resume(out: Path) -> list[str]:
    """The arguments that resume it."""
    return ["train", "--resume", "--out", str(out)]


def fork(call: Callable[[], int], log: Path) -> int:
    """Starts ``call`` in a copy of this process that prints into ``log``; returns its id. A fork takes a hundredth of a new process."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        status = 70
        with suppress(BaseException):
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
            status = call()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return process


def wait(process: int, log: Path) -> Ended:
    """Waits for a forked process."""
    _, status = os.waitpid(process, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(encoding="utf-8", errors="replace"))


def command(
    arguments: list[str], log: Path, before: Callable[[], object] | None = None, after: Callable[[], object] | None = None
) -> Ended:
    """Runs one command line in a forked process, after ``before`` and before ``after``."""

    def call() -> int:
        if before is not None:
            before()
        status = main(arguments)
        if after is not None:
            after()
        return status

    return wait(fork(call, log), log)


def finish(folder: Path, out: Path, settings: Sequence[str] = ()) -> Ended:
    """Takes a run to its end as its user would: resumes it, or starts it where there is nothing to resume."""
    ended = command(resume(out), folder / "log")
    return ended if ended.status == 0 else command([*start(folder, out), *settings], folder / "log")


def weights(out: Path) -> str:
    """The sha256 of the weights of a run, and of its last checkpoint."""
    last = max((out / "state").glob("step-*"))
    files = [out / "model.safetensors", last / "model.safetensors", last / "optimizer.safetensors"]
    return "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def reference(folder: Path, settings: Sequence[str] = ()) -> str:
    """The weights of the run without a fault."""
    out = folder / "reference"
    ended = command([*start(folder, out), *settings], folder / "log")
    if ended.status != 0:
        raise SystemExit(f"the run without a fault failed: {ended.output}")
    return weights(out)


def is_sentence(ended: Ended) -> bool:
    """Whether a command that failed said so in words."""
    return (
        ended.status in (1, 2) and "subquad: " in ended.output and "internal error" not in ended.output and "Traceback" not in ended.output
    )
