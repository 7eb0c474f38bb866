"""Bits flipped in and bytes cut off the files of a run: a command says so, or its answer is what it was."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from benchmarks.faults.campaign import Tally, command, is_sentence, prepare, reference


def run(folder: Path, each: int, seed: int = 0) -> Tally:
    """Damages every file of a finished run ``each`` times, and asks each command for an answer."""
    prepare(folder)
    reference(folder)
    whole, out, log = folder / "reference", folder / "damaged", folder / "log"
    commands = {
        "score": ["score", str(out), str(folder / "text.txt"), "--json"],
        "generate": ["generate", str(out), "--prompt", "line", "--max-bytes", "20", "--temperature", "0"],
        "info": ["info", str(out), "--json"],
        "resume": ["train", "--resume", "--out", str(out), "--steps", "7", "--quiet"],
    }
    tally, draw, answers = Tally("flipped bits and cut bytes"), random.Random(seed), {}
    for name, arguments in commands.items():
        shutil.copytree(whole, out)
        answers[name] = _answer(out, command(arguments, log).output, name)
        shutil.rmtree(out)
    for file in sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        content = (whole / file).read_bytes()
        for number in range(each):
            name = list(commands)[number % len(commands)]
            shutil.copytree(whole, out)
            (out / file).write_bytes(_damaged(content, draw))
            ended = command(commands[name], log)
            tally.tried += 1
            same = ended.status == 0 and (_answer(out, ended.output, name) == answers[name] or "damaged" in ended.output)
            tally.expect(same or is_sentence(ended), f"{name} with a damaged {file}: status {ended.status}, {ended.output[-300:]}")
            shutil.rmtree(out)
    return tally


def _damaged(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(max(1, len(content)))
    if draw.random() < 0.5 or not content:
        return content[:place]
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def _answer(out: Path, output: str, name: str) -> str:
    return (out / "model.safetensors").read_bytes().hex() if name == "resume" else output
