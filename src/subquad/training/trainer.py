"""The training loop: batches by number, steps, periodic validation and samples, checkpoints, a clean end.

What is learned is a value, an ``Objective``: the loop asks it for batches, a summed loss to take the gradient of, and metrics.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from signal import Signals
from typing import Any, Literal

import torch
from rich.console import Console
from torch import nn

from subquad import manifest, run_folder
from subquad.config import differences, with_changes
from subquad.data.summary import data_summary
from subquad.errors import RunError
from subquad.models.base import Model
from subquad.objectives.base import Batch, ModelRunner, Objective
from subquad.run_log import read_run_log
from subquad.system import Content, as_json
from subquad.training.checkpoints import Counters, last_good, newest_state, remove_unfinished, restore_state, resume_command, save_state
from subquad.training.config import TrainConfig, as_yaml, read
from subquad.training.optim import build_optimizer, resolve_lr, set_lr
from subquad.training.plan import plan
from subquad.training.progress import Display, Log, Record, Tracker, summary_writer
from subquad.training.runtime import Interrupts, checkpointed, evaluation_mode, resolve_dtype, threads
from subquad.training.schedule import learning_rate, resolve_warmup
from subquad.training.step import accumulate_gradients

DATA, LOG = "data.json", "log.jsonl"
ORDER = 2  # the version of the order of samples, which a resumed run must share with its beginning

_CHANGEABLE = ("steps", "device", "dtype", "threads", "compile", "checkpoint_activations", "track", "init", "eval.", "save.")
_ROUNDING = ("device", "dtype", "threads", "compile")  # what decides the last bits
_MOVABLE = ("data.paths", "data.valid", "data.test")

Reason = Literal["finished", "stopped early", "interrupted"]


@dataclass(frozen=True)
class Hooks:
    """What the loop gets from its caller.

    ``sample(model, step)`` writes text; ``flops_per_target`` are those of a training step per byte or token; ``matmul_rate(dtype, device)``
    the machine's FLOP per second, ``memory(rows, length)`` about how many bytes a step on so many ids takes; ``machine`` is what the log
    calls the machine.
    """

    sample: Callable[[nn.Module, int], str] | None = None
    flops_per_target: float | None = None
    matmul_rate: Callable[[str, torch.device], float] | None = None
    memory: Callable[[int, int], int] | None = None
    machine: str = ""
    console: Console | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    """How a run ended; ``best`` is the loss of its best validation, None without one, and ``accuracy`` that of its answers or labels, if it
    has any. ``signal`` is what interrupted it."""

    out: Path
    step: int
    reason: Reason
    best: float | None
    accuracy: float | None = None
    signal: Signals | None = None


def build_run(config: TrainConfig) -> tuple[Model, Objective[Any]]:
    """The objective of a config with its data, and a freshly initialised model for it."""
    assert config.objective is not None
    objective = config.objective.build(config.setup)
    torch.manual_seed(config.seed)
    return objective.model_config.build(), objective


class Trainer:
    """Trains a model for an objective into a run folder; its weights are changed in place.

    Raises ``ValueError`` for wrong settings, before any work, and ``RunError`` for a run that fails.
    """

    def __init__(self, model: Model, objective: Objective[Any], config: TrainConfig, out: str | Path, hooks: Hooks | None = None) -> None:
        self.objective, self.model, self.out, self.hooks = objective, model, Path(out), hooks or Hooks()
        self.config = with_changes(config, {"model": model.config.model_dump(mode="json")})
        self.device = run_folder.resolve_device(config.device)
        self.loss_name, self.unit = objective.loss_metric.name, objective.loss_metric.label
        self.display = Display(config.steps, self.hooks.console, self.hooks.quiet, self.loss_name, self.unit)

    def run(self, resume: bool = False) -> Result:
        """Trains to the last step, or until a signal (``Interrupts``); ``resume`` continues from the newest sound checkpoint in ``out``."""
        run_folder.check_out(self.out, resume)
        if self.config.track:
            summary_writer()
        with threads(self.config.threads), checkpointed(self.model, self.config.checkpoint_activations):
            counters = self._resume() if resume else self._start()
            if reason := self._done(counters):
                words, remedy = (
                    ("finished its", "give more --steps") if reason == "finished" else ("stopped early, after", "change eval.stop")
                )
                self.display.say(f"{self.out} has {words} {counters.step} steps already: {remedy} to continue")
                if read_run_log(self.out).ended == reason:
                    return self._result(counters, reason)
                with self._following(counters):  # it was killed between its last checkpoint and its end
                    return self._end(counters, None)
            # Before the first step an interrupt has nothing to save and ends the program at once.
            with Interrupts() as interrupts, self._following(counters):
                where: Record = {"time": datetime.now().astimezone().isoformat(" ", "seconds"), "machine": self.hooks.machine}
                self._log({"kind": "resume" if resume else "start", "step": counters.step, "steps": self.config.steps, **where})
                counters = self._train(counters, interrupts)
                return self._end(counters, interrupts.received)

    def _start(self) -> Counters:
        if self.config.init:
            self.model.copy_weights(run_folder.load(self.config.init), self.config.init)
        self._set_up_data()
        self._set_up_model()
        self._decide(self.config)
        record = {"order": ORDER, "folder": os.getcwd(), **self.objective.record()}  # relative paths begin there
        tokens, largest = self.objective.tokenizer is not None, self.objective.largest_batch(self.config.batch // self.config.accumulate)
        memory = None if self.hooks.quiet or self.hooks.memory is None else self.hooks.memory(*largest)
        for line in (*data_summary(record), *plan(self.config, self.model, tokens, memory, self.out)):
            self.display.say(line)
        contents: dict[str, Content] = {
            run_folder.CONFIG: as_json(self.model.config.model_dump(mode="json")),
            run_folder.TRAIN: as_yaml(self.config),
            DATA: as_json(record),
        }
        if self.objective.tokenizer is not None:
            contents[run_folder.TOKENIZER] = self.objective.tokenizer.to_bytes()
        with self._writing():
            manifest.replace(self.out, contents)
        return Counters()

    def _resume(self) -> Counters:
        manifest.check(self.out, [run_folder.TRAIN, DATA])
        saved = read(self.out)
        if saved.data.tokenizer is not None:
            manifest.check(self.out, [run_folder.TOKENIZER])
        self._decide(saved)
        changed = differences(self.config, saved)
        if fixed := [key for key in changed if not key.startswith(_CHANGEABLE + _MOVABLE)]:
            raise ValueError(
                f"a resumed run cannot change {', '.join(fixed)}: leave it as it is in {self.out}, or start a new run with --init"
            )
        data = manifest.read_mapping(self.out / DATA)
        if data.get("order") != ORDER:
            raise ValueError(
                f"{self.out} was started by an earlier version, which ordered its samples differently: start a new run with --init "
                f"{self.out}"
            )
        if data["fingerprint"] != self.objective.fingerprint:
            raise ValueError(
                f"the data is not what {self.out} was trained on: give the same files, or start a new run with --init {self.out}"
            )
        folder = newest_state(self.out, self.display.tell)
        if folder is None and self.config.init:
            self.model.copy_weights(run_folder.load(self.config.init), self.config.init)
        remove_unfinished(self.out)
        self._set_up_data(self.out / run_folder.TOKENIZER)
        self._set_up_model()
        counters = self._restore(folder)
        if counters.step > self.config.steps:
            raise ValueError(f"{self.out} has done {counters.step} steps, more than steps={self.config.steps}: give more --steps")
        if saved.steps != self.config.steps:
            self.display.say(f"the schedule is now for {self.config.steps} steps; it was for {saved.steps}")
        if inexact := [key for key in changed if key in _ROUNDING]:
            self.display.tell(f"{', '.join(inexact)} changed: from here on the run no longer equals the uninterrupted one bit for bit")
        with self._writing():
            run_folder.seal(self.out, [run_folder.CONFIG, run_folder.WEIGHTS, run_folder.TOKENIZER, run_folder.TRAIN, DATA])
            if changed:
                manifest.replace(self.out, {run_folder.TRAIN: as_yaml(self.config)})
        return counters

    def _restore(self, folder: Path | None) -> Counters:
        if folder is None:
            self.display.say(f"{self.out} has no checkpoint yet: starting from the beginning")
            return Counters()
        counters = restore_state(folder, self.model, self.optimizer)
        self.display.say(f"resuming from {folder}")
        return counters

    def _decide(self, earlier: TrainConfig) -> None:
        """Replaces None and "auto" by what ``earlier`` decided, or decides now; train.yaml records the decision."""
        config = self.config
        warmup = config.schedule.warmup if config.schedule.warmup is not None else earlier.schedule.warmup
        dtype = config.dtype if config.dtype != "auto" else earlier.dtype
        decided: dict[str, Any] = {
            "optim.lr": config.optim.lr or earlier.optim.lr or resolve_lr(config, self.model.config),
            "schedule.warmup": warmup if warmup is not None else resolve_warmup(config.schedule, config.steps),
            "data.window": config.data.window or earlier.data.window or self.objective.window,
            "data.split": next((way for way in (config.data.split, earlier.data.split) if way != "auto"), self.objective.split_by),
            "device": str(self.device),
            "dtype": resolve_dtype(dtype, self.device),
            "threads": config.threads or torch.get_num_threads(),
        }
        self.config = with_changes(config, decided)

    def _set_up_data(self, tokenizer: Path | None = None) -> None:
        self.objective.prepare(self.model, tokenizer)
        stop, metrics = self.config.eval.stop, self.objective.metric_names
        if stop.accuracy is not None and "accuracy" not in metrics:
            raise ValueError("eval.stop.accuracy needs a validation with accuracy: train on a task or on labels, or use eval.stop.patience")
        if stop.patience is not None and not metrics:
            raise ValueError("eval.stop.patience needs a validation part: give the data one, and eval.windows above 0")

    def _set_up_model(self) -> None:
        torch.manual_seed(self.config.seed)
        self.model.to(self.device).train()
        if self.config.compile:
            self.model.compile()
        lr = resolve_lr(self.config, self.model.config)
        self.optimizer = build_optimizer(self.model, self.config.optim, lr)

    def _train(self, counters: Counters, interrupts: Interrupts) -> Counters:
        config = self.config
        while counters.step < config.steps:
            counters = self._step(counters)
            stop = interrupts.received is not None
            if counters.step % config.eval.every == 0 or counters.step == config.steps:
                counters = self._evaluate(counters)
            stop = stop or self._done(counters) is not None
            if counters.step % config.save.every == 0 or stop:
                self._save(counters)
            if stop:
                break
        return counters

    def _done(self, counters: Counters) -> Reason | None:
        """Why the run is over, None when it is not."""
        stop = self.config.eval.stop
        solved = stop.accuracy is not None and (counters.best_accuracy or 0.0) >= stop.accuracy
        if counters.step == self.config.steps:
            return "finished"
        return "stopped early" if solved or (stop.patience is not None and counters.waited >= stop.patience) else None

    def _step(self, counters: Counters) -> Counters:
        """One update from a batch."""
        began = time.perf_counter()
        config, objective = self.config, self.objective
        lr = self._rate(counters.step)
        batch = objective.batch(counters.samples, config.batch)
        total, gradient = accumulate_gradients(objective, self._runner, batch, config)
        norm = gradient.item()
        num_bytes, loss = objective.num_bytes(batch), objective.mean_loss(total.item(), batch)
        self._check_finite(loss, f"a loss of {loss} {self.unit}", counters.step + 1)
        self._check_finite(norm, f"a gradient of norm {norm}", counters.step + 1)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - began
        counters = replace(
            counters,
            step=counters.step + 1,
            samples=counters.samples + config.batch,
            bytes=counters.bytes + num_bytes,
            seconds=counters.seconds + seconds,
        )
        self._report_step(
            counters,
            {self.loss_name: loss, "lr": lr, "grad_norm": norm},
            num_bytes / seconds,
            objective.num_targets(batch) / seconds,
            seconds,
        )
        return counters

    def _report_step(self, counters: Counters, values: Record, byte_rate: float, target_rate: float, seconds: float) -> None:
        flops, matmul = self.hooks.flops_per_target, self._matmul_rate
        progress = {"bytes": counters.bytes, "seconds": counters.seconds, "bytes_per_second": byte_rate}
        share = None if flops is None or matmul is None else target_rate * flops / matmul
        record = {"kind": "train", "step": counters.step, **values, **progress, "matmul_share": share}
        self._log(record)
        self.display.update(record, seconds)

    @property
    def _runner(self) -> ModelRunner:
        return ModelRunner(self.model, self.device, self.config.dtype == "bfloat16")

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
        metrics = self._validate()
        if metrics:
            loss = metrics[self.loss_name]
            self._check_finite(loss, f"a validation loss of {loss} {self.unit}", counters.step)
            self._log({"kind": "valid", "step": counters.step, **metrics, "bytes": counters.bytes, "seconds": counters.seconds})
            others = "".join(f" · {name} {value:.3f}" for name, value in metrics.items() if name != self.loss_name)
            self.display.say(f"step {counters.step}: validation {loss:.3f} {self.unit}{others}")
            counters = counters.validated(loss, metrics.get("accuracy"))
            if counters.best_step == counters.step:
                with self._writing():
                    run_folder.save(self.model, self.out)
        if self.hooks.sample is not None:
            with evaluation_mode(self.model, self.device):
                text = self.hooks.sample(self.model, counters.step)
            self._log({"kind": "sample", "step": counters.step, "text": text})
            self.display.say(text)
        return counters

    def _validate(self) -> dict[str, float]:
        if not self.objective.metric_names:
            return {}
        with evaluation_mode(self.model, self.device):
            metrics = self.objective.evaluate(self._runner, self.config.batch // self.config.accumulate)
        return {name: metrics[name] for name in self.objective.metric_names}  # the loss first, as the log has it

    def _save(self, counters: Counters) -> None:
        # An update can ruin the weights and still have had a finite gradient: what is saved must predict something.
        with evaluation_mode(self.model, self.device):
            batch: Batch = self.objective.batch(counters.samples, self.config.batch // self.config.accumulate)
            loss = self.objective.loss(self._runner, batch).item()
        self._check_finite(loss, f"weights whose loss is {loss}", counters.step)
        with self._writing():
            path = save_state(self.out, self.model, self.optimizer, counters, self.config.save.keep)
            if counters.best is None:
                run_folder.save(self.model, self.out)
        self._log({"kind": "save", "step": counters.step, "path": path.relative_to(self.out).as_posix()})

    def _end(self, counters: Counters, signal: Signals | None) -> Result:
        reason = self._done(counters) or "interrupted"
        self._log({"kind": "end", "step": counters.step, "reason": reason})
        with self._writing():
            self._close()
            run_folder.seal(self.out)
        if reason != "interrupted" and counters.best is not None:
            accuracy = "" if counters.best_accuracy is None else f", accuracy {counters.best_accuracy:.3f}"
            self.display.say(
                f"best validation: {counters.best:.3f} {self.unit}{accuracy} at step {counters.best_step}, whose weights are kept"
            )
        if reason == "interrupted":
            self.display.tell(f"stopped after step {counters.step}; resume with: {resume_command(self.out)}")
        return self._result(counters, reason, signal if reason == "interrupted" else None)

    def _result(self, counters: Counters, reason: Reason, signal: Signals | None = None) -> Result:
        return Result(self.out, counters.step, reason, counters.best, counters.best_accuracy, signal)

    @contextmanager
    def _following(self, counters: Counters) -> Iterator[None]:
        """Opens the log, the tracker and the display for a run from ``counters`` on."""
        rate = self.hooks.matmul_rate
        self._matmul_rate = None if rate is None else rate(self.config.dtype, self.device)
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
        """Turns a failed write into a ``RunError`` that names the last good checkpoint."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(
                f"could not write to {self.out} ({reason}); {last_good(self.out)}; free some space, then resume with: "
                f"{resume_command(self.out)}"
            ) from error
