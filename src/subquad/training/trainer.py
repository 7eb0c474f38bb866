"""The training loop: batches by number, one step, validation and samples now and then, checkpoints, a clean end.

What is learned is a value, an ``Objective``: the loop asks it for batches, a summed loss to take the gradient of, and figures.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from subquad import run_folder
from subquad.data.batches import Batch
from subquad.errors import RunError
from subquad.system import Content
from subquad.training.checkpoints import Counters, last_good, newest_state, restore_state, resume_command, save_state
from subquad.training.config import TrainConfig, as_yaml, differences, read
from subquad.training.objectives import Objective, Place
from subquad.training.optim import build_optimizer, resolve_lr, set_lr
from subquad.training.progress import Display, Log, Record, Tracker, summary_writer
from subquad.training.runtime import Interrupts, checkpointed, evaluation_mode, threads
from subquad.training.schedule import learning_rate, resolve_warmup

DATA, LOG = "data.json", "log.jsonl"

_CHANGEABLE = ("steps", "device", "dtype", "threads", "compile", "checkpoint_activations", "track", "init", "eval.", "save.")
_MOVABLE = ("data.paths", "data.valid", "data.test")

Reason = Literal["finished", "stopped early", "interrupted"]


@dataclass(frozen=True)
class Hooks:
    """What the loop is handed from above.

    ``sample(model, step)`` writes text; ``flops_per_byte`` counts a training step's FLOPs per byte or token; ``matmul_rate(dtype)`` is the
    machine's FLOP per second; ``seconds(call)`` times a call, and settles ``dtype: auto``, which is float32 without it.
    """

    sample: Callable[[nn.Module, int], str] | None = None
    flops_per_byte: float | None = None
    matmul_rate: Callable[[str], float] | None = None
    seconds: Callable[[Callable[[], object]], float] | None = None
    console: Console | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    """How a run ended; ``best`` is the loss of the best of its validations, None without one, and ``accuracy`` how many
    of its answers or labels are right, if it has any."""

    out: Path
    step: int
    reason: Reason
    best: float | None
    accuracy: float | None = None


class Trainer:
    """Trains an objective's model into a run folder; its weights are changed in place.

    Raises ``ValueError`` before any work for settings that cannot be, ``RunError`` for a run that fails on the way.
    """

    def __init__(self, objective: Objective, config: TrainConfig, out: str | Path, hooks: Hooks | None = None) -> None:
        self.objective, self.model, self.out, self.hooks = objective, objective.model, Path(out), hooks or Hooks()
        self.config = config.model_copy(update={"model": self.model.config.model_dump(mode="json")})
        self.device = run_folder.resolve_device(config.device)
        self.display = Display(config.steps, self.hooks.console, self.hooks.quiet, objective.measure, objective.unit)

    def run(self, resume: bool = False) -> Result:
        """Trains to the last step, or until SIGINT or SIGTERM; ``resume`` goes on from the newest sound checkpoint in ``out``."""
        run_folder.check_out(self.out, resume)
        if self.config.track:
            summary_writer()
        with threads(self.config.threads), checkpointed(self.model, self.config.checkpoint_activations), Interrupts() as interrupts:
            counters = self._resume() if resume else self._start()
            if reason := self._done(counters):
                words, remedy = (
                    ("finished its", "give more --steps") if reason == "finished" else ("stopped early, after", "change eval.stop")
                )
                self.display.say(f"{self.out} has {words} {counters.step} steps already: {remedy} to go on")
                return self._result(counters, reason)
            with self._following(counters):
                if resume:
                    self._log({"kind": "resume", "step": counters.step, "steps": self.config.steps})
                counters = self._train(counters, interrupts)
                return self._end(counters)

    def _start(self) -> Counters:
        self._set_up_data()
        self._set_up_model()
        self._decide(self.config)
        contents: dict[str, Content] = {
            run_folder.CONFIG: run_folder.as_json(self.config.model),
            run_folder.TRAIN: as_yaml(self.config),
            DATA: run_folder.as_json(self.objective.record()),
        }
        if self.objective.tokenizer is not None:
            contents[run_folder.TOKENIZER] = self.objective.tokenizer.to_bytes()
        with self._writing():
            run_folder.replace(self.out, contents)
        return Counters()

    def _resume(self) -> Counters:
        run_folder.check(self.out, [run_folder.TRAIN, DATA])
        saved = read(self.out)
        if saved.data.tokenizer is not None:
            run_folder.check(self.out, [run_folder.TOKENIZER])
        self._decide(saved)
        changed = differences(self.config, saved)
        if fixed := [key for key in changed if not key.startswith(_CHANGEABLE + _MOVABLE)]:
            raise ValueError(f"a resumed run cannot change {', '.join(fixed)}: leave it as {self.out} has it, or start anew with --init")
        if json.loads((self.out / DATA).read_text(encoding="utf-8"))["fingerprint"] != self.objective.fingerprint:
            raise ValueError(f"the data is not what {self.out} was trained on: give the same files, or start anew with --init {self.out}")
        self._set_up_data(self.out / run_folder.TOKENIZER)
        self._set_up_model()
        counters = self._restore()
        if counters.step > self.config.steps:
            raise ValueError(f"{self.out} has done {counters.step} steps, more than steps={self.config.steps}: give more --steps")
        if saved.steps != self.config.steps:
            self.display.say(f"the schedule is now that of {self.config.steps} steps, it was that of {saved.steps}")
        with self._writing():
            run_folder.seal(self.out, [run_folder.CONFIG, run_folder.WEIGHTS, run_folder.TOKENIZER, run_folder.TRAIN, DATA])
            if changed:
                run_folder.replace(self.out, {run_folder.TRAIN: as_yaml(self.config)})
        return counters

    def _restore(self) -> Counters:
        folder = newest_state(self.out, self.display.say)
        if folder is None:
            self.display.say(f"{self.out} has no checkpoint yet: starting from the beginning")
            return Counters()
        counters = restore_state(folder, self.model, self.optimizer)
        self.display.say(f"resuming from {folder}")
        return counters

    def _decide(self, known: TrainConfig) -> None:
        """Replaces None and "auto" by what ``known`` decided, or decides now."""
        config = self.config
        lr, warmup, window, dtype = config.optim.lr, config.schedule.warmup, config.data.window, config.dtype
        optim = config.optim.model_copy(update={"lr": lr or known.optim.lr or resolve_lr(config.optim, self.model)})
        warmup = warmup if warmup is not None else known.schedule.warmup
        warmup = warmup if warmup is not None else resolve_warmup(config.schedule, config.steps)
        dtype = dtype if dtype != "auto" else known.dtype
        decided: dict[str, Any] = {
            "optim": optim,
            "schedule": config.schedule.model_copy(update={"warmup": warmup}),
            "data": config.data.model_copy(update={"window": window or known.data.window or self.objective.window(config.data)}),
            "dtype": dtype if dtype != "auto" else self._faster_dtype(),
        }
        self.config = config.model_copy(update=decided)

    def _set_up_data(self, kept_tokenizer: Path | None = None) -> None:
        self.objective.set_up(self.config, kept_tokenizer)
        stop, figures = self.config.eval.stop, self.objective.figures
        if stop.accuracy is not None and "accuracy" not in figures:
            raise ValueError("eval.stop.accuracy needs answers to validate: train on a task or labels, or stop by eval.stop.patience")
        if stop.patience is not None and not figures:
            raise ValueError("eval.stop.patience needs a validation part: give the data one, and eval.windows above 0")

    def _set_up_model(self) -> None:
        torch.manual_seed(self.config.seed)
        self.model.to(self.device).train()
        if self.config.compile:
            self.model.compile()
        lr = resolve_lr(self.config.optim, self.model)
        self.optimizer = build_optimizer(self.model, self.config.optim, lr)

    def _faster_dtype(self) -> str:
        if self.hooks.seconds is None:
            return "float32"
        batch = self.objective.batch(0, self.config.batch // self.config.accumulate)

        def step(dtype: str) -> None:
            torch.autograd.backward(self._nats(self.objective.drawn(batch), dtype))

        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            taken = {dtype: self.hooks.seconds(partial(step, dtype)) for dtype in ("float32", "bfloat16")}
        self.optimizer.zero_grad()
        return min(taken, key=lambda dtype: taken[dtype])

    def _train(self, counters: Counters, interrupts: Interrupts) -> Counters:
        config = self.config
        while counters.step < config.steps:
            counters = self._step(counters)
            stop = interrupts.received
            if counters.step % config.eval.every == 0 or counters.step == config.steps:
                counters = self._evaluate(counters)
            stop = stop or self._done(counters) is not None
            if counters.step % config.save.every == 0 or stop:
                self._save(counters)
            if stop:
                break
        return counters

    def _done(self, counters: Counters) -> Reason | None:
        """Why there is nothing left to do, None when there is."""
        stop = self.config.eval.stop
        solved = stop.accuracy is not None and (counters.best_accuracy or 0.0) >= stop.accuracy
        if counters.step == self.config.steps:
            return "finished"
        return "stopped early" if solved or (stop.patience is not None and counters.waited >= stop.patience) else None

    def _step(self, counters: Counters) -> Counters:
        """One update from a batch; the gradient is of the mean over all of it, however it is cut into parts."""
        began = time.perf_counter()
        config, objective = self.config, self.objective
        lr = self._rate(counters.step)
        batch = objective.drawn(objective.batch(counters.samples, config.batch))
        count, size = objective.count(batch), config.batch // config.accumulate
        total = torch.zeros((), device=self.device)
        for first in range(0, config.batch, size):
            nats = self._nats(batch.rows(first, first + size))
            torch.autograd.backward(nats / count)
            total = total + nats.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip or math.inf).item()
        read, loss = objective.bytes(batch), objective.loss(total.item(), batch)
        self._check_finite(loss, f"a loss of {loss} {objective.unit}", counters.step + 1)
        self._check_finite(norm, f"a gradient of norm {norm}", counters.step + 1)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - began
        counters = replace(
            counters,
            step=counters.step + 1,
            samples=counters.samples + config.batch,
            bytes=counters.bytes + read,
            seconds=counters.seconds + seconds,
        )
        self._report_step(counters, {objective.measure: loss, "lr": lr, "grad_norm": norm}, read / seconds, count / seconds, seconds)
        return counters

    def _report_step(self, counters: Counters, values: Record, byte_rate: float, id_rate: float, seconds: float) -> None:
        flops, matmul = self.hooks.flops_per_byte, self._matmul_rate
        progress = {"bytes": counters.bytes, "seconds": counters.seconds, "bytes_per_second": byte_rate}
        share = None if flops is None or matmul is None else id_rate * flops / matmul
        record = {"kind": "train", "step": counters.step, **values, **progress, "matmul_share": share}
        self._log(record)
        self.display.update(record, seconds)

    def _nats(self, batch: Batch, dtype: str | None = None) -> Tensor:
        return self.objective.nats(batch, self._place(dtype))

    def _place(self, dtype: str | None = None) -> Place:
        return Place(self.device, (dtype or self.config.dtype) == "bfloat16")

    def _rate(self, step: int) -> float:
        assert self.config.optim.lr is not None
        return learning_rate(self.config.schedule, self.config.optim.lr, self.config.steps, step)

    def _check_finite(self, value: float, what: str, step: int) -> None:
        if math.isfinite(value):
            return
        self._log({"kind": "end", "step": step, "reason": "not finite"})
        lr = self._rate(step - 1)
        remedy = "lower optim.lr, or raise schedule.warmup, in a new run"
        raise RunError(f"step {step} gave {what} at learning rate {lr:.3g}; {last_good(self.out)}; {remedy}")

    def _evaluate(self, counters: Counters) -> Counters:
        """Validates, keeps the weights if they are the best so far, and writes a sample."""
        at, unit = {"step": counters.step}, self.objective.unit
        if (figures := self._validate()) is not None:
            loss = figures[self.objective.measure]
            self._check_finite(loss, f"a validation loss of {loss} {unit}", counters.step)
            self._log({"kind": "valid", **at, **figures, "bytes": counters.bytes, "seconds": counters.seconds})
            others = "".join(f" · {name} {value:.3f}" for name, value in figures.items() if name != self.objective.measure)
            self.display.say(f"step {counters.step}: validation {loss:.3f} {unit}{others}")
            counters = counters.validated(loss, figures.get("accuracy"))
            if counters.best_step == counters.step:
                with self._writing():
                    run_folder.save(self.model, self.out)
        if self.hooks.sample is not None:
            with evaluation_mode(self.model, self.device):
                text = self.hooks.sample(self.model, counters.step)
            self._log({"kind": "sample", **at, "text": text})
            self.display.say(text)
        return counters

    def _validate(self) -> dict[str, float] | None:
        with evaluation_mode(self.model, self.device):
            return self.objective.validate(self.config.batch // self.config.accumulate, self._place())

    def _save(self, counters: Counters) -> None:
        # An update can ruin the weights and still have had a finite gradient: what is saved must predict something.
        with evaluation_mode(self.model, self.device):
            nats = self._nats(self.objective.batch(counters.samples, self.config.batch // self.config.accumulate)).item()
        self._check_finite(nats, f"weights whose loss is {nats}", counters.step)
        with self._writing():
            path = save_state(self.out, self.model, self.optimizer, counters, self.config.save.keep)
            if counters.best is None:
                run_folder.save(self.model, self.out)
        self._log({"kind": "save", "step": counters.step, "path": path.relative_to(self.out).as_posix()})

    def _end(self, counters: Counters) -> Result:
        reason = self._done(counters) or "interrupted"
        self._log({"kind": "end", "step": counters.step, "reason": reason})
        with self._writing():
            self._close()
            run_folder.seal(self.out)
        if reason == "interrupted":
            self.display.tell(f"stopped after step {counters.step}; go on with: {resume_command(self.out)}")
        return self._result(counters, reason)

    def _result(self, counters: Counters, reason: Reason) -> Result:
        return Result(self.out, counters.step, reason, counters.best, counters.best_accuracy)

    @contextmanager
    def _following(self, counters: Counters) -> Iterator[None]:
        """Opens the log, the tracker and the display for a run from ``counters`` on."""
        rate = self.hooks.matmul_rate
        self._matmul_rate = None if rate is None else rate(self.config.dtype)
        with self._writing():
            self._records: list[Log | Tracker] = [Log(self.out / LOG)]
        if self.config.track:
            self._records.append(Tracker(self.out, counters.step))
        self.display.start(counters.step)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # a full disk refuses what is left of the log once more; the first refusal has been told
                self._close()
            raise
        self._close()

    def _close(self) -> None:
        self.display.close()
        for record in self._records:
            record.close()

    def _log(self, record: Record) -> None:
        with self._writing():
            for follower in self._records:
                follower.write(record)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a disk that refuses into a ``RunError`` that says what is left."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(
                f"could not write to {self.out} ({reason}); {last_good(self.out)}; make room, then go on with: {resume_command(self.out)}"
            ) from error
