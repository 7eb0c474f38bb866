"""Pickles that would run code when they are read: none does, in any place where a checkpoint is read."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.campaign import Tally, command, is_sentence


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def run(folder: Path, suffixes: Sequence[str] = (".pt", ".pth", ".ckpt", ".bin")) -> Tally:
    """Converts each pickle, under each name that a checkpoint may have."""
    tally, mark, log = Tally("pickles that run code"), folder / "mark", folder / "log"
    (folder / "config.json").write_text("{}")
    for suffix in suffixes:
        for what, content in _contents(mark).items():
            file = folder / f"weights{suffix}"
            file.write_bytes(content)
            arguments = ["convert", str(file), "--from", "hyena-lm", "--config", str(folder / "config.json"), "--out", str(folder / "out")]
            ended = command(arguments, log)
            tally.tried += 1
            tally.expect(not mark.exists(), f"{what} as {suffix} ran code")
            tally.expect(is_sentence(ended), f"{what} as {suffix}: status {ended.status}, {ended.output[-300:]}")
            mark.unlink(missing_ok=True)
    return tally


def _contents(mark: Path) -> dict[str, bytes]:
    touch = f"touch {mark}"
    calls = {
        "os.system": Calls(os.system, touch),
        "eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(mark)!r}, 'w')"),
        "open": Calls(open, str(mark), "w"),
        "subprocess": Calls(subprocess.getoutput, touch),
        "torch.load": Calls(torch.save, {}, str(mark)),
    }
    contents = {}
    for name, call in calls.items():
        for place, value in {"alone": call, "as a value": {"a": call}, "in state_dict": {"state_dict": {"weight": call}}}.items():
            for protocol in (2, 4, 5):
                contents[f"{name} {place}, protocol {protocol}"] = pickle.dumps(value, protocol)
            if place != "alone":
                contents[f"{name} {place}, torch.save"] = _saved(value, zipped=True)
                contents[f"{name} {place}, torch.save of old"] = _saved(value, zipped=False)
    return contents | {"a zip of a pickle": _zipped(pickle.dumps(calls["os.system"], 2))}


def _saved(value: object, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
    return file.getvalue()
