"""Signals at random moments of a training: it is then resumed, as often as it takes, to the weights of an undisturbed one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

from benchmarks.faults.campaign import Tally, finish, fork, prepare, reference, resume, start, wait, weights
from subquad.cli import main

STEPS = ["--steps", "60"]


def run(folder: Path, number: signal.Signals, count: int, seed: int = 0) -> Tally:
    """Sends ``count`` signals to one run after the other."""
    prepare(folder)
    tally, expected, draw = Tally(f"{number.name} in training"), reference(folder, STEPS), random.Random(seed)
    out, log = folder / "run", folder / "log"
    while tally.tried < count:
        resumed = (out / "train.yaml").exists()
        arguments = resume(out) if resumed else start(folder, out) + STEPS
        began = time.monotonic()
        process = fork(partial(main, arguments), log)
        while not (out / "log.jsonl").exists() and time.monotonic() < began + 5 and os.waitpid(process, os.WNOHANG)[0] == 0:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.15)
        try:
            os.kill(process, number)
            ended = wait(process, log)
        except (ProcessLookupError, ChildProcessError):  # it was done before
            ended = None
        if ended is not None:
            tally.tried += 1
            statuses = {-number} if number == signal.SIGKILL else {128 + number}
            statuses |= {-number} if resumed else set()  # before its first step it just ends
            fine = ended.status in statuses or (ended.status == 0 and "resume with" not in ended.output)  # or it was done
            tally.expect(fine, f"signal {tally.tried}: status {ended.status}, {ended.output[-300:]}")
        if ended is None or ended.status == 0 or tally.tried == count:
            again = finish(folder, out, STEPS)
            tally.expect(again.status == 0 and weights(out) == expected, f"signal {tally.tried}: other weights, {again.output[-300:]}")
            shutil.rmtree(out, ignore_errors=True)
    return tally
