"""The loop: what it writes, that a resumed run equals an uninterrupted one, and that nothing good is lost when it ends badly."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subquad import manifest, run_folder, system
from subquad.errors import RunError
from subquad.objectives.base import ModelRunner
from subquad.training.checkpoints import newest_state
from subquad.training.config import as_yaml, read
from subquad.training.progress import Log
from subquad.training.trainer import Hooks, Trainer
from tests.training.conftest import MakeConfig, MakeTrainer
from tests.training.logs import read_log


def losses(run: Path, kind: str = "train") -> dict[int, float]:
    return {record["step"]: record["bits_per_byte"] for record in read_log(run) if record["kind"] == kind}


def weights(run: Path) -> dict[str, Tensor]:
    return run_folder.load(run).state_dict()


def assert_same(first: Path, second: Path) -> None:
    assert losses(first) == losses(second) and losses(first, "valid") == losses(second, "valid")
    one, other = weights(first), weights(second)
    assert all(torch.equal(one[name], other[name]) for name in one)
    newest = [newest_state(run) for run in (first, second)]
    one, other = (run_folder.read_tensors(folder / "optimizer.safetensors") for folder in newest if folder)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopping_at(step: int) -> Hooks:
    def stop(model: nn.Module, at: int) -> str:
        if at == step:
            signal.raise_signal(signal.SIGTERM)
        return ""

    return Hooks(sample=stop, quiet=True)


def test_a_run_folder_is_whole(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    out = tmp_path / "run"
    result = make_trainer(out, {"save.keep": 2}, Hooks(sample=lambda model, step: f"at {step}", quiet=True)).run()
    assert (result.step, result.reason) == (12, "finished")
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "data.json", "log.jsonl", "manifest.json", "model.safetensors", "state", "train.yaml")
    }
    assert [path.name for path in sorted((out / "state").iterdir())] == ["step-00000008", "step-00000012"]
    manifest.check(out)
    files = manifest.read_manifest(out).files
    assert {name for name in files if "/" not in name} == {"config.json", "data.json", "log.jsonl", "model.safetensors", "train.yaml"}
    assert "state/step-00000012/optimizer.safetensors" in files
    config = read(out)
    assert (config.optim.lr, config.dtype, config.schedule.warmup, config.data.window) == (0.5 / 16, "float32", 1, 32)
    assert run_folder.load(out / "state" / "step-00000008").config == run_folder.load(out).config


def test_the_log_says_what_happened(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    hooks = Hooks(lambda model, step: "text", flops_per_target=1e6, matmul_rate=lambda dtype, device: 1e12, machine="a laptop", quiet=True)
    make_trainer(tmp_path / "run", {"steps": 5}, hooks).run()
    records = read_log(tmp_path / "run")
    kinds = [record["kind"] for record in records]
    assert kinds == ["start", *["train"] * 4, "valid", "sample", "save", "train", "valid", "sample", "save", "end"]
    assert (records[0]["steps"], records[0]["machine"]) == (5, "a laptop")
    assert abs(datetime.fromisoformat(records[0]["time"]) - datetime.now().astimezone()) < timedelta(minutes=10)
    last = records[8]
    assert last.keys() == {*("kind", "step", "bits_per_byte", "lr", "grad_norm", "bytes", "seconds", "bytes_per_second", "matmul_share")}
    assert last["bytes"] == 5 * 4 * 32 and last["matmul_share"] == pytest.approx(last["bytes_per_second"] / 1e6)
    assert records[1]["bits_per_byte"] == pytest.approx(8, abs=0.1)
    assert records[-1] == {"kind": "end", "step": 5, "reason": "finished"}


def test_it_learns(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    result = make_trainer(tmp_path / "run", {"steps": 60, "eval.every": 60, "save.every": 60}).run()
    assert result.best is not None and result.best < 6


def test_the_best_weights_by_validation_are_kept(tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([3.0, 2.0, 4.0])
    monkeypatch.setattr(Trainer, "_validate", lambda self: {"bits_per_byte": next(told)})
    result = make_trainer(tmp_path / "run", {"save.keep": 3}).run()
    assert result.best == 2.0
    best, last = (weights(tmp_path / "run" / "state" / f"step-{step:08d}") for step in (8, 12))
    kept = weights(tmp_path / "run")
    assert all(torch.equal(kept[name], best[name]) for name in kept)
    assert not all(torch.equal(kept[name], last[name]) for name in kept)


def test_without_validation_the_last_weights_are_kept(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    result = make_trainer(tmp_path / "run", {"data.fractions": [1.0, 0.0, 0.0]}).run()
    assert result.best is None
    kept, last = weights(tmp_path / "run"), weights(tmp_path / "run" / "state" / "step-00000012")
    assert all(torch.equal(kept[name], last[name]) for name in kept)


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16", "checkpoint_activations": True, "schedule.kind": "wsd"}])
def test_a_resumed_run_equals_the_uninterrupted_one(changes: dict[str, Any], tmp_path: Path, make_trainer: MakeTrainer) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(whole, changes, Hooks(sample=lambda model, step: str(torch.rand(1)), quiet=True)).run()
    assert make_trainer(parts, changes, stopping_at(4)).run().reason == "interrupted"
    assert len(losses(parts)) == 5
    manifest.check(parts)
    torch.rand(7)
    assert make_trainer(parts, config=read(parts)).run(resume=True).reason == "finished"
    assert_same(whole, parts)


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    without_dropout = {"model.stages.0.dropout": 0.0, "model.stages.0.mixer.dropout": 0.0}
    without_dropout |= {"model.stages.1.dropout": 0.0, "model.stages.1.mixer.dropout": 0.0}
    for parts in (1, 4):
        make_trainer(tmp_path / str(parts), {**without_dropout, "steps": 3, "accumulate": parts}).run()
    one, four = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert one == pytest.approx(four, abs=1e-5)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_damaged_newest_checkpoint_falls_back(
    quiet: bool, tmp_path: Path, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(whole).run()
    make_trainer(parts, hooks=stopping_at(8)).run()
    newest = parts / "state" / "step-00000009" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    make_trainer(parts, config=read(parts), hooks=Hooks(quiet=quiet)).run(resume=True)
    told = capsys.readouterr().err
    assert "step-00000009 is damaged" in told and (quiet or ("resuming from" in told and "step-00000008" in told))
    assert_same(whole, parts)


def test_with_every_checkpoint_damaged_it_says_so(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    make_trainer(tmp_path / "run").run()
    for path in (tmp_path / "run" / "state").glob("*/progress.json"):
        path.unlink()
    with pytest.raises(RunError, match="every checkpoint in .* is damaged"):
        make_trainer(tmp_path / "run", {"steps": 20}).run(resume=True)


def test_a_finished_run_says_so_and_can_be_extended(
    tmp_path: Path, make_trainer: MakeTrainer, make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    make_trainer(out).run()
    before = (out / "log.jsonl").read_bytes()
    assert make_trainer(out, hooks=Hooks()).run(resume=True).reason == "finished"
    assert "has finished its 12 steps already" in capsys.readouterr().err and (out / "log.jsonl").read_bytes() == before
    manifest.check(out, ["model.safetensors", "train.yaml"])
    result = make_trainer(out, {"steps": 16}, Hooks()).run(resume=True)
    assert result.step == 16 and read(out).steps == 16
    assert "the schedule is now for 16 steps" in capsys.readouterr().err
    assert [(record["step"], record["steps"]) for record in read_log(out) if record["kind"] == "resume"] == [(12, 16)]
    manifest.check(out)
    with pytest.raises(ValueError, match="has done 16 steps, more than steps=5"):
        make_trainer(out, {"steps": 5}).run(resume=True)


@pytest.mark.parametrize("changes", [{"optim.lr": 0.5}, {"batch": 8}, {"seed": 1}, {"model.stages.1.dim": 16}])
def test_a_resumed_run_cannot_become_another(changes: dict[str, Any], tmp_path: Path, make_trainer: MakeTrainer) -> None:
    make_trainer(tmp_path / "run", {"steps": 2}).run()
    with pytest.raises(ValueError, match=f"cannot change {'model.stages' if 'model.stages.1.dim' in changes else next(iter(changes))}"):
        make_trainer(tmp_path / "run", {"steps": 4, **changes}).run(resume=True)


def test_a_resumed_run_needs_its_data(tmp_path: Path, make_trainer: MakeTrainer, make_config: MakeConfig) -> None:
    make_trainer(tmp_path / "run", {"steps": 2}).run()
    (tmp_path / "other.txt").write_bytes(b"x" * 5000)
    config = make_config({"steps": 4, "data.paths": [str(tmp_path / "other.txt")]})
    with pytest.raises(ValueError, match="the data is not what"):
        make_trainer(tmp_path / "run", config=config).run(resume=True)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(whole, {"steps": 3}).run()

    def die(model: nn.Module, step: int) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_trainer(parts, {"steps": 3, "eval.every": 2}, Hooks(sample=die, quiet=True)).run()
    make_trainer(parts, {"steps": 3}).run(resume=True)
    assert losses(parts) == losses(whole)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(bad: float, tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    trainer = make_trainer(out)
    sound = trainer.objective.loss

    def spoiled(model: ModelRunner, batch: Any) -> Tensor:
        loss: Tensor = sound(model, batch)
        return loss * bad if model.module.training and (out / "state" / "step-00000008").exists() else loss

    monkeypatch.setattr(trainer.objective, "loss", spoiled)
    with pytest.raises(RunError, match=r"step 9 gave a loss of (nan|inf) .*learning rate 0\.0.* last good checkpoint is .*step-00000008"):
        trainer.run()
    assert all(tensor.isfinite().all() for tensor in weights(out).values())
    assert read_log(out)[-1] == {"kind": "end", "step": 9, "reason": "not finite"}


def test_weights_that_an_update_ruined_are_not_saved(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    with pytest.raises(RunError, match=r"step \d+ gave .*there is no checkpoint yet"):
        make_trainer(tmp_path / "run", {"optim.lr": 1e38, "save.every": 1, "eval.every": 1}).run()
    assert not list((tmp_path / "run").glob("state/*")) and not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("failing", ["write_folder", "save", "log"])
def test_a_full_disk_keeps_the_last_good_checkpoint(
    failing: str, tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    write, log = system.write, Log.write

    def full(path: Path, content: system.Content) -> None:
        wanted = "optimizer" if failing == "write_folder" else "model.safetensors"
        if (out / "state" / "step-00000004").exists() and wanted in path.name:
            path.write_bytes(b"some of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    def full_log(self: Log, record: dict[str, Any]) -> None:
        if record["step"] > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        log(self, record)

    if failing == "log":
        monkeypatch.setattr(Log, "write", full_log)
    else:
        monkeypatch.setattr(manifest, "write", full)
        monkeypatch.setattr(system, "write", full)
    with pytest.raises(RunError, match=r"No space left.*last good checkpoint is .*step-00000004; .*subquad train --resume --out"):
        make_trainer(out).run()
    monkeypatch.undo()
    assert not [path for path in out.rglob(".*")]
    run_folder.load(out)
    make_trainer(out).run(resume=True)
    make_trainer(tmp_path / "whole").run()
    assert_same(tmp_path / "whole", out)


def test_out_must_be_new_and_writable(tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"is not empty.*--resume"):
        make_trainer(tmp_path).run()
    with pytest.raises(ValueError, match="is a file"):
        run_folder.check_out(tmp_path / "book.txt")
    with pytest.raises(ValueError, match="cannot write to"):
        run_folder.check_out(tmp_path / "book.txt" / "run")
    with pytest.raises(ValueError, match="is not a run to resume"):
        run_folder.check_out(tmp_path, resume=True)

    def refuse(dir: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"cannot write to .* \(Permission denied\)"):
        run_folder.check_out(tmp_path / "run")


def test_wrong_settings_are_refused_before_a_file_is_written(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="exceeds the model's context of 32"):
        make_trainer(tmp_path / "run", {"data.window": 33}).run()
    assert not list((tmp_path / "run").iterdir())


def test_auto_is_decided_by_the_device_and_stored(tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    for units, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("subquad.training.runtime.has_bfloat16", lambda device, units=units: units)
        make_trainer(tmp_path / wanted, {"steps": 2, "dtype": "auto"}).run()
        assert read(tmp_path / wanted).dtype == wanted
    make_trainer(tmp_path / "named", {"steps": 2}).run()
    assert losses(tmp_path / "float32") == losses(tmp_path / "named")


def test_an_interrupt_while_the_data_are_read_ends_at_once(
    tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path / "run")
    monkeypatch.setattr(trainer.objective, "prepare", lambda model, tokenizer=None: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_resumed_run_reads_its_checkpoint_once_to_check_it(
    tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(tmp_path / "run", hooks=stopping_at(4)).run()
    hashed: list[str] = []
    digest_of = manifest.digest_of

    def counted(path: Path) -> str:
        hashed.append(path.as_posix())
        return digest_of(path)

    monkeypatch.setattr(manifest, "digest_of", counted)
    trainer = make_trainer(tmp_path / "run", config=read(tmp_path / "run"))
    monkeypatch.setattr(trainer, "_train", lambda counters, interrupts: counters)
    trainer.run(resume=True)
    assert sum(name.endswith("/optimizer.safetensors") for name in hashed) == 1


def test_a_resumed_run_says_that_it_rounds_otherwise(tmp_path: Path, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path / "run", hooks=stopping_at(4)).run()
    make_trainer(tmp_path / "run", {"dtype": "bfloat16", "threads": torch.get_num_threads() + 1}).run(resume=True)
    assert "dtype, threads changed: from here on the run no longer equals" in capsys.readouterr().err


def test_a_run_of_an_earlier_order_of_samples_is_not_resumed(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    make_trainer(tmp_path / "run", hooks=stopping_at(4)).run()
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    del data["order"]
    manifest.replace(tmp_path / "run", {"data.json": system.as_json(data)})
    with pytest.raises(ValueError, match="was started by an earlier version.*--init"):
        make_trainer(tmp_path / "run", config=read(tmp_path / "run")).run(resume=True)


PROGRAM = """
import sys
from subquad.training.config import read
from subquad.training.trainer import Hooks, Trainer, build_run
config = read(sys.argv[1])
trainer = Trainer(*build_run(config), config, sys.argv[2], Hooks(quiet=len(sys.argv) < 5))
print("going", flush=True)
print(trainer.run(resume=sys.argv[3] == "resume").reason)
"""


def started(config: Path, out: Path, how: str, extra: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(config), str(out), how, *([extra] if extra else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path, make_config: MakeConfig) -> None:
    (tmp_path / "train.yaml").write_bytes(as_yaml(make_config({"steps": 100_000, "save.every": 100_000, "eval.every": 100_000})))
    out = tmp_path / "run"
    with started(tmp_path / "train.yaml", out, "start", "loud") as process:
        while not (out / "log.jsonl").exists() or len((out / "log.jsonl").read_bytes()) < 500:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate()
    assert process.returncode == 0 and b"interrupted" in stdout
    assert f"subquad train --resume --out {out}" in stderr.decode()
    state = newest_state(out)
    assert state is not None and json.loads((state / "progress.json").read_text())["step"] == read_log(out)[-1]["step"]
    manifest.check(out)


@pytest.mark.slow
def test_killed_while_training_and_saving_it_ends_where_it_would_have(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, kills: int = 2
) -> None:
    config = make_config({"steps": 16 * kills, "save.every": 1, "eval.every": 1, "eval.windows": 1})
    (tmp_path / "train.yaml").write_bytes(as_yaml(config))
    out, draw = tmp_path / "run", random.Random(0)
    for kill in range(kills):
        before = newest_state(out)
        with started(tmp_path / "train.yaml", out, "resume" if kill else "start") as process:
            while max((out / "state").glob("step-*"), default=None) == before:
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(draw.random() / 10)
            process.send_signal(signal.SIGKILL)
        run_folder.load(out)
    make_trainer(out, config=config).run(resume=True)
    make_trainer(tmp_path / "whole", config=config).run()
    assert_same(tmp_path / "whole", out)
