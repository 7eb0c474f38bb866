"""Training on tasks: what counts in the loss, how answers are judged, and when a run stops early."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from subquad import api, run_folder
from subquad.data.batches import Batches
from subquad.data.corpus import Corpus
from subquad.metrics import score_answers
from subquad.models.base import CausalModel
from subquad.objectives.next_token import cross_entropy_sum
from subquad.training.config import read
from subquad.training.trainer import Trainer
from tests.training.logs import read_log

RECALL = "synthetic:recall,vocab=6,length=16,examples=100"
MODEL = {"kind": "language_model", "max_len": 16, "stack": {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2}}}
OPTIONS: dict[str, Any] = {"steps": 8, "batch": 4, "dtype": "float32", "device": "cpu", "eval.every": 2, "save.every": 2}


def train(out: Path, data: str = RECALL, options: dict[str, Any] | None = None, resume: bool = False) -> list[dict[str, Any]]:
    settings = {} if resume else OPTIONS
    api.train(None if resume else MODEL, data, out, settings | (options or {}), resume=resume, quiet=True, report=False)
    return read_log(out)


def test_the_report_says_what_the_loss_of_a_task_is(tmp_path: Path) -> None:
    api.train(MODEL, RECALL, tmp_path / "run", OPTIONS | {"steps": 2}, quiet=True)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "bits per answer" in report


def told(monkeypatch: pytest.MonkeyPatch, values: list[tuple[float, float | None]]) -> None:
    answers = iter([{"bits_per_byte": bits} | ({} if right is None else {"accuracy": right}) for bits, right in values])
    monkeypatch.setattr(Trainer, "_validate", lambda self: next(answers))


def test_judging_is_the_cost_and_the_largest_logit_at_each_answer() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    answers = torch.rand(3, 5) < 0.5
    places = [(row, at) for row in range(3) for at in range(5) if answers[row, at]]
    nats = sum(F.cross_entropy(logits[row, at], ids[row, at]).item() for row, at in places)
    for slack in (0, 2):
        right = sum(abs(int(logits[row, at].argmax()) - int(ids[row, at])) <= slack for row, at in places)
        assert score_answers(logits, ids, answers, slack) == pytest.approx((nats, right), rel=1e-5)
    assert score_answers(F.one_hot(ids, 7).float(), ids, answers)[1] == len(places)


def test_only_what_is_learned_counts_in_the_loss(tmp_path: Path) -> None:
    data = "synthetic:addition,digits=2,examples=100"
    log = train(tmp_path / "run", data, {"steps": 1, "optim.lr": 1e-9})
    model = run_folder.load(tmp_path / "run")
    assert isinstance(model, CausalModel)
    batch = Batches(Corpus.open([data]).split().train, 7, seed=0).batch(0, 4)
    ids = torch.from_numpy(batch.ids).long()
    bits = F.cross_entropy(model(ids)[:, 4:].flatten(0, 1), ids[:, 4:].flatten()).item() / math.log(2)
    assert log[1]["bits_per_byte"] == pytest.approx(bits, abs=1e-4) and log[1]["bytes"] == 4 * 7


def test_what_is_not_learned_has_no_gradient() -> None:
    batch = Batches(Corpus.open(["synthetic:addition,digits=2,examples=100"]).split().train, 7, seed=0).batch(0, 4)
    assert batch.learned is not None
    logits = torch.randn(4, 7, 256, requires_grad=True)
    torch.autograd.backward(cross_entropy_sum(logits, torch.from_numpy(batch.ids).long(), [7] * 4, torch.from_numpy(batch.learned)))
    assert logits.grad is not None
    assert (logits.grad[:, :4] == 0).all() and (logits.grad[:, 4:].abs().sum(-1) > 0).all()


def test_validation_says_how_many_answers_are_right(tmp_path: Path) -> None:
    log = train(tmp_path / "run", options={"steps": 2, "data.fractions": [0.5, 0.5, 0.0]})
    (valid,) = (record for record in log if record["kind"] == "valid")
    model, spans = run_folder.load(tmp_path / "run"), Corpus.open([RECALL]).split((0.5, 0.5, 0.0)).valid
    ids = torch.stack([torch.from_numpy(span.read(0, 16).copy()) for span in spans]).long()
    logits = model(ids)[:, 14]
    assert valid["accuracy"] == (logits.argmax(-1) == ids[:, 14]).float().mean().item()
    assert valid["bits_per_byte"] == pytest.approx(F.cross_entropy(logits, ids[:, 14]).item() / math.log(2), rel=1e-5)
    assert read(tmp_path / "run").data.window == 16


def test_more_right_answers_are_better_and_then_fewer_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, [(1.0, 0.5), (2.0, 0.75), (1.5, 0.75), (0.5, 0.5)])
    train(tmp_path / "run")
    assert api.info(tmp_path / "run")["best_validation"] == {"step": 6, "bits_per_byte": 1.5, "accuracy": 0.75}


def test_a_run_stops_where_its_answers_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, [(1.0, 0.5), (1.0, 0.95)])
    log = train(tmp_path / "run", options={"eval.stop.accuracy": 0.9})
    assert [record["kind"] for record in log[-2:]] == ["save", "end"]
    assert log[-1] == {"kind": "end", "step": 4, "reason": "stopped early"}
    assert train(tmp_path / "run", resume=True) == log
    told(monkeypatch, [(1.0, 0.5), (1.0, 0.5)])
    assert train(tmp_path / "run", options={"eval.stop.accuracy": None}, resume=True)[-1]["reason"] == "finished"


def test_a_run_stops_when_it_gets_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, [(2.0, None), (3.0, None), (1.0, None), (1.0, None), (1.5, None), (0.5, None)])
    log = train(tmp_path / "run", options={"steps": 12, "eval.stop.patience": 2})
    assert log[-1] == {"kind": "end", "step": 10, "reason": "stopped early"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data.window": 8}, "one example of 16 bytes"),
        ({"data.pack": True}, "leave out data.window, data.pack"),
        ({"model.max_len": 8}, "exceeds the model's context"),
        ({"eval.stop.patience": 1, "eval.windows": 0}, "needs a validation part"),
    ],
)
def test_settings_that_do_not_fit_a_task(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(tmp_path / "run", options=options)


def test_accuracy_needs_answers(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"no answers " * 50)
    with pytest.raises(ValueError, match="needs a validation with accuracy"):
        train(tmp_path / "run", str(text), {"eval.stop.accuracy": 0.5})
