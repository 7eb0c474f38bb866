"""The parts of the loop alone: schedules, groups of the optimizer, the loss, the log, what surrounds a run."""

from __future__ import annotations

import io
import json
import math
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from subquad.config import parse, with_changes
from subquad.errors import RunError
from subquad.models import build_model, parse_model, presets
from subquad.objectives.next_token import cross_entropy_sum
from subquad.training.config import OptimConfig, ScheduleConfig, TrainConfig
from subquad.training.optim import FINE_TUNING_LR, build_optimizer, decayed_names, optimizer_tensors, resolve_lr, restore_optimizer
from subquad.training.progress import Display, Log, summary_writer
from subquad.training.runtime import Interrupts, checkpointed, evaluation_mode, threads
from subquad.training.schedule import learning_rate, resolve_warmup
from tests.training.conftest import MODEL, STACK
from tests.training.logs import read_log


def rates(steps: int, values: dict[str, Any]) -> list[float]:
    return [learning_rate(ScheduleConfig.model_validate(values), 2.0, steps, step) for step in range(steps)]


def test_polynomial() -> None:
    assert rates(6, {"warmup": 2}) == pytest.approx([1, 2, 2, 1.5, 1, 0.5])
    assert rates(4, {"warmup": 0, "power": 2, "end": 0.5}) == pytest.approx([2, 1 + 9 / 16, 1 + 1 / 4, 1 + 1 / 16])


def test_cosine() -> None:
    assert rates(4, {"kind": "cosine", "warmup": 0}) == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])


def test_warmup_stable_decay() -> None:
    assert rates(10, {"kind": "wsd", "warmup": 2, "decay": 0.4}) == pytest.approx([1, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5])
    assert rates(4, {"kind": "wsd", "warmup": 0, "decay": 0.0}) == [2, 2, 2, 2]


def test_warmup_is_500_steps_or_a_tenth_and_may_outlast_the_run() -> None:
    config = ScheduleConfig()
    assert [resolve_warmup(config, steps) for steps in (1, 100, 10_000)] == [0, 10, 500]
    assert rates(2, {"warmup": 4}) == pytest.approx([0.5, 1.0])


def test_decay_pulls_on_linear_and_convolution_weights_only() -> None:
    model = build_model({**MODEL, "conv_kernels": [3]})
    decayed = decayed_names(model)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert all(len(shapes[name]) >= 2 and name.endswith("weight") for name in decayed)
    spared = shapes.keys() - decayed
    assert all(len(shapes[name]) == 1 or "embedding" in name or "positions" in name for name in spared)
    assert any("conv" in name for name in decayed) and any("qkv" in name for name in decayed)


def test_a_head_tied_to_the_embedding_does_not_decay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 9, bias=False)
            self.embedding = nn.Embedding(9, 4)
            self.embedding.weight = self.head.weight

    assert decayed_names(Tied()) == set()


def test_the_optimizer_is_fused_with_two_groups() -> None:
    model = build_model(MODEL)
    optimizer = build_optimizer(model, OptimConfig(), 0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(group["fused"] and group["betas"] == (0.9, 0.98) for group in optimizer.param_groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_the_default_rate_is_half_over_the_width() -> None:
    def rate(model: Any, **values: Any) -> float:
        return resolve_lr(parse(TrainConfig, {"model": model, **values}), parse_model(model))

    assert rate(MODEL) == 0.5 / 16 and rate(MODEL, optim={"lr": 0.3}) == rate(MODEL, optim={"lr": 0.3}, init="run") == 0.3
    assert rate(MODEL, init="run") == FINE_TUNING_LR == 1e-3  # trained weights forget at the rate of fresh ones
    encoder = {"kind": "classifier", "backbone": presets()["m2-bert-tiny"].model_dump(mode="json"), "classes": ["a", "b"]}
    assert rate("m2-bert-tiny") == rate(encoder) == 4e-3
    assert rate(with_changes(presets()["m2-bert-tiny"], {"stack.norm": "after"})) == 1e-3
    assert 0.5 / presets()["transformer-125m"].width == pytest.approx(6e-4, rel=0.1)


def test_the_optimizer_state_goes_back_where_it_was() -> None:
    model = build_model(MODEL)
    optimizer = build_optimizer(model, OptimConfig(), 0.1)
    torch.autograd.backward(model(torch.zeros(1, 8, dtype=torch.long)).sum())
    optimizer.step()
    tensors = optimizer_tensors(model, optimizer)
    fresh = build_optimizer(model, OptimConfig(), 0.1)
    restore_optimizer(model, fresh, tensors)
    again = optimizer_tensors(model, fresh)
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)
    with pytest.raises(RunError, match="unknown names: stranger"):
        restore_optimizer(model, fresh, {**tensors, "stranger": torch.zeros(1)})
    name = next(name for name in tensors if name.startswith("exp_avg/"))
    with pytest.raises(RunError, match="does not fit"):
        restore_optimizer(model, fresh, {**tensors, name: torch.zeros(1)})


def test_the_loss_counts_valid_bytes_only() -> None:
    logits, ids = torch.randn(2, 5, 256, requires_grad=True), torch.randint(0, 256, (2, 5))
    lengths = [5, 2]
    one_by_one = sum(F.cross_entropy(logits[row, :length], ids[row, :length], reduction="sum") for row, length in enumerate(lengths))
    loss = cross_entropy_sum(logits, ids, lengths)
    torch.testing.assert_close(loss, one_by_one)
    torch.autograd.backward(loss)
    assert logits.grad is not None and not logits.grad[1, 2:].any()
    torch.testing.assert_close(cross_entropy_sum(logits, ids, [5, 5]), F.cross_entropy(logits.flatten(0, 1), ids.flatten()) * 10)


def test_the_loss_is_in_float32_or_better() -> None:
    ids = torch.randint(0, 256, (1, 3))
    for given, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert cross_entropy_sum(torch.zeros(1, 3, 256, dtype=given), ids, [3]).dtype == wanted
    assert cross_entropy_sum(torch.zeros(1, 3, 256), ids, [3]).item() / 3 / math.log(2) == pytest.approx(8)


def test_activation_checkpointing_changes_no_gradient_and_is_undone() -> None:
    model, ids = build_model({**MODEL, "stages": [{**STACK, "depth": 2}, STACK]}), torch.randint(0, 256, (2, 16))
    grads = []
    for enabled in (False, True):
        with checkpointed(model, enabled):
            torch.manual_seed(1)
            torch.autograd.backward(cross_entropy_sum(model(ids), ids, [16, 16]))
        grads.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        model.zero_grad()
    assert all(torch.equal(first, second) for first, second in zip(*grads, strict=True))
    assert not any("forward" in vars(module) for module in model.modules())


def test_surroundings_are_put_back() -> None:
    model = nn.Dropout().train()
    before = torch.get_rng_state()
    with evaluation_mode(model, torch.device("cpu")):
        torch.rand(3)
        assert not model.training and not torch.is_grad_enabled()
    assert model.training and torch.equal(torch.get_rng_state(), before)
    number = torch.get_num_threads()
    with threads(number + 1):
        assert torch.get_num_threads() == number + 1
    assert torch.get_num_threads() == number


def test_the_first_signal_is_noted_and_the_second_acts() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGHUP)
    assert interrupts.received is None and signal.signal(signal.SIGHUP, before) == signal.SIG_IGN


def test_the_log_forgets_what_was_done_again_and_what_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records = [{"kind": "train", "step": step} for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind": "tr')
    assert read_log(tmp_path) == records
    log = Log(path)
    log.write({"kind": "resume", "step": 1})
    log.write({"kind": "train", "step": 2, "text": "ü"})
    log.close()
    assert [(record["kind"], record["step"]) for record in read_log(tmp_path)] == [("train", 1), ("resume", 1), ("train", 2)]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_loss_rate_share_and_time_left(terminal: bool) -> None:
    text = io.StringIO()
    display = Display(100, Console(file=text, force_terminal=terminal, width=150, highlight=False))
    display.start(0)
    display.update({"step": 40, "bits_per_byte": 2.5, "bytes_per_second": 41_000.0, "matmul_share": 0.25}, 2.0)
    display.say("a [line] \\")
    display.close()
    for part in ("2.500 bits per byte", "41.0 kB/s", "25% of peak FLOP/s", "2 min 0 s left", "40/100", "a [line] \\"):
        assert part in text.getvalue()


def test_quiet_is_quiet() -> None:
    text = io.StringIO()
    display = Display(1, Console(file=text, force_terminal=True), quiet=True)
    display.start(0)
    display.update({"step": 1, "bits_per_byte": 2.5, "bytes_per_second": 1.0, "matmul_share": None}, 1.0)
    display.say("nothing")
    display.close()
    assert text.getvalue() == ""


def test_tracking_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'subquad\[track\]'"):
        summary_writer()


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    """A folder that somebody else has made may hold one; another file would be cut and appended to."""
    other = tmp_path / "other"
    other.write_bytes(b"half a line")
    (tmp_path / "log.jsonl").symlink_to(other)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        Log(tmp_path / "log.jsonl")
    assert other.read_bytes() == b"half a line"
