"""The table of objectives: a new one is one file and one line, found everywhere; compiled and distributed models are what runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from subquad import api, manifest, run_folder
from subquad.cli import main
from subquad.comparison.runner import compare
from subquad.data.corpus import Corpus
from subquad.data.windows import Ids, Windows
from subquad.models.base import BaseModelConfig, Model
from subquad.models.language_model import LanguageModelConfig
from subquad.objectives import OBJECTIVES, default_objective, find_metric
from subquad.objectives.base import Metric, ModelRunner, Objective, ObjectiveConfig, Setup, TestOptions, TestResult
from subquad.run_log import read_run_log
from subquad.sections import Section, Table
from subquad.training.config import build_config, read
from subquad.training.trainer import Trainer, build_run
from tests.training.logs import read_log

# An objective as somebody outside the package would write it: the byte that stands ``distance`` positions back.


class CopyConfig(ObjectiveConfig):
    METRICS: ClassVar[tuple[Metric, ...]] = (Metric("copy_loss", "nats per copy"), Metric("copied", "bytes copied", higher_is_better=True))
    READS: ClassVar[frozenset[str]] = frozenset({"split"})

    kind: Literal["copy"] = "copy"
    distance: int = Field(1, gt=0)

    @classmethod
    def trains(cls, model: BaseModelConfig) -> bool:
        return isinstance(model, LanguageModelConfig)

    def build(self, setup: Setup) -> Copy:
        return Copy(self, setup)

    @property
    def logits_share(self) -> float:
        return 1.0


@dataclass(frozen=True)
class CopyBatch:
    ids: Ids

    def rows(self, first: int, stop: int) -> CopyBatch:
        return CopyBatch(self.ids[first:stop])


class Copy(Objective[CopyBatch]):
    def __init__(self, config: CopyConfig, setup: Setup) -> None:
        self.config, self.setup, self.model_config = config, setup, setup.model
        self.corpus = Corpus.open(setup.data.paths)

    @property
    def loss_metric(self) -> Metric:
        return self.config.METRICS[0]

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    @property
    def window(self) -> int:
        return self.setup.data.window or 16

    def prepare(self, model: Model, tokenizer: Path | None = None) -> None:
        self.split = self.corpus.split(self.setup.data.fractions, self.setup.data.split, self.setup.seed)
        self._train = Windows(self.split.train, self.window, self.setup.seed)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.config.METRICS)

    def record(self) -> dict[str, Any]:
        return self.corpus.record(self.split)

    def batch(self, first: int, count: int) -> CopyBatch:
        return CopyBatch(self._train.batch(first, count)[0])

    def loss(self, model: ModelRunner, batch: CopyBatch) -> Tensor:
        logits, targets = self._logits(model, batch)
        return F.cross_entropy(logits, targets, reduction="sum")

    def num_targets(self, batch: CopyBatch) -> int:
        return batch.ids[:, self.config.distance + 1 :].size

    def num_bytes(self, batch: CopyBatch) -> int:
        return batch.ids.size

    def evaluate(self, model: ModelRunner, batch_size: int) -> dict[str, float]:
        return self._measure(model, self.split.valid)

    @property
    def has_test(self) -> bool:
        return bool(self.split.test)

    def test(self, model: Model, options: TestOptions) -> TestResult:
        metrics = self._measure(ModelRunner(model, torch.device("cpu")), self.split.test)
        return TestResult({"basic": metrics["copy_loss"]}, options.max_bytes, {"copied": metrics["copied"]})

    def sections(self, model: Model) -> list[Section]:
        result = self.test(model, TestOptions(1, ("basic",), 1))
        return [Table("How much is copied", ["part", "bytes copied"], [["test", f"{result.metrics['copied']:.3f}"]])]

    def _measure(self, model: ModelRunner, spans: Any) -> dict[str, float]:
        ids, _ = Windows(spans, self.window, 0).in_order(8)
        logits, targets = self._logits(model, CopyBatch(ids))
        # In an order of its own: which of them is the loss does not depend on it.
        return {"copied": (logits.argmax(1) == targets).float().mean().item(), "copy_loss": F.cross_entropy(logits, targets).item()}

    def _logits(self, model: ModelRunner, batch: CopyBatch) -> tuple[Tensor, Tensor]:
        back = self.config.distance + 1  # position t sees ids before t, of which the last is one position back
        logits = model.run({"ids": model.tensor(batch.ids)})[:, back:].flatten(0, 1)
        return logits, model.tensor(batch.ids[:, :-back]).flatten()


STACK = {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2}}
MODEL: dict[str, Any] = {"kind": "language_model", "max_len": 16, "init_std": 0.1, "stack": STACK}
OPTIONS: dict[str, Any] = {"objective": "copy", "steps": 8, "batch": 4, "accumulate": 2, "device": "cpu", "dtype": "float32"}
OPTIONS |= {"eval.every": 4, "save.every": 4, "optim.lr": 1e-2}


@pytest.fixture
def objective(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(OBJECTIVES, "copy", CopyConfig)  # the one line
    yield


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(np.random.default_rng(0).integers(97, 101, 4000).astype(np.uint8)))
    return str(path)


def test_a_new_objective_trains_resumes_and_is_shown(
    objective: None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"--set={key}={json.dumps(value)}" for key, value in (OPTIONS | {"objective.distance": 2}).items() if key != "objective"]
    (tmp_path / "copy.yaml").write_text(json.dumps({"model": MODEL, "objective": {"kind": "copy"}}))
    assert main(["train", str(tmp_path / "copy.yaml"), "--data", text, "--out", str(tmp_path / "run"), "--quiet", *settings]) == 0
    run = tmp_path / "run"
    config = read(run)
    assert isinstance(config.objective, CopyConfig) and config.objective.distance == 2 and config.data.window == 16
    records = read_log(run)
    assert "copy_loss" in records[1] and {"copy_loss", "copied"} <= records[5].keys()
    assert read_run_log(run).loss_name == "copy_loss" and find_metric("copy_loss").label == "nats per copy"

    capsys.readouterr()
    assert main(["info", str(run), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best_validation"]
    valid = min((record for record in records if record["kind"] == "valid"), key=lambda record: record["copy_loss"])
    assert best == {name: valid[name] for name in ("step", "copy_loss", "copied")}
    assert records[-1]["kind"] == "test" and records[-1].keys() >= {"copy_loss", "copied"}
    page = (run / "report.html").read_text()
    assert "How much is copied" in page and "nats per copy" in page

    save = Trainer._save

    def stopping(self: Trainer, counters: Any) -> None:
        save(self, counters)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", stopping)
    with pytest.raises(KeyboardInterrupt):
        api.train(MODEL, text, tmp_path / "parts", OPTIONS | {"objective.distance": 2}, quiet=True)
    monkeypatch.undo()
    monkeypatch.setitem(OBJECTIVES, "copy", CopyConfig)
    parts = api.train(None, None, tmp_path / "parts", resume=True, quiet=True)
    weights, others = (run_folder.load(one / "state" / "step-00000008").state_dict() for one in (run, parts))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    manifest.check(parts)


def test_it_learns(objective: None, text: str, tmp_path: Path) -> None:
    run = api.train(MODEL, text, tmp_path / "run", OPTIONS | {"steps": 150, "eval.every": 50, "batch": 16}, quiet=True)
    assert api.info(run)["best_validation"]["copied"] > 0.9


def test_a_comparison_finds_it(objective: None, text: str, tmp_path: Path) -> None:
    train = {name: value for name, value in OPTIONS.items() if name not in ("steps", "eval.every", "save.every", "optim.lr")}
    experiment = {
        "title": "Copies",
        "about": "Of bytes.",
        "models": {"one": {"config": MODEL}, "two": {"config": MODEL, "train": {"objective.distance": 2}}},
        "data": {"text": {"paths": [text], "fractions": [0.8, 0.1, 0.1]}},
        "budget": {"bytes": 640},
        "train": train,
    }
    results = compare(experiment, tmp_path / "out", jobs=0, quiet=True)
    assert [(outcome.status, outcome.error, outcome.unit) for outcome in results.outcomes] == [("done", "", "nats per copy")] * 2
    assert all(0 <= outcome.metrics["copied"] <= 1 and outcome.loss["basic"] > 0 for outcome in results.outcomes)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "ats per copy" in page


def test_without_the_line_it_is_unknown(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown objective 'copy': known: next_token"):
        api.train(MODEL, text, tmp_path / "run", OPTIONS, quiet=True)
    assert default_objective(build_config({"model": MODEL}, {}).model).kind == "next_token"


ENCODER = {
    **MODEL,
    "kind": "encoder",
    "mask_token": "learned",
    "stack": {**STACK, "mixer": {"kind": "attention", "heads": 2, "two_sided": True}},
}
PERCEIVER = {"kind": "perceiver_ar", "max_len": 16, "latents": 8, "stack": STACK}
LABELS = "text\tlabel\n" + "good film\tyes\nbad film\tno\n" * 20
PAIRS = "query\tpassage\n" + "".join(f"q{number}\tp{number}\n" for number in range(20))


EVERY_OBJECTIVE = pytest.mark.parametrize(
    ("model", "data"),
    [
        (MODEL, "text.txt"),
        (PERCEIVER, "text.txt"),
        (ENCODER, "text.txt"),
        ({**ENCODER, "head": "none"}, "pairs.tsv"),
        ({"kind": "classifier", "backbone": MODEL}, "labels.tsv"),
        ({"kind": "classifier", "backbone": ENCODER}, "labels.tsv"),
    ],
)


@EVERY_OBJECTIVE
def test_a_compiled_model_is_what_every_objective_runs(
    model: dict[str, Any], data: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``compile: true`` compiles what training and validation call: the compiler sees graphs, and losses stay the same."""
    (tmp_path / "labels.tsv").write_text(LABELS)
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend=count))
    options = {name: value for name, value in OPTIONS.items() if name != "objective"} | {"steps": 1, "eval.every": 1, "eval.windows": 2}
    losses = []
    for compiled in (False, True):
        torch._dynamo.reset()
        run = api.train(
            model, str(tmp_path / data), tmp_path / f"run-{compiled}", options | {"compile": compiled}, quiet=True, report=False
        )
        log = read_run_log(run)
        losses.append([log.train[0].loss, log.valid[0].loss])
        assert bool(graphs) == compiled
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert read(tmp_path / "run-True").compile and build_run(read(tmp_path / "run-True"))[0].config == api.load(run).config


@pytest.fixture
def process_group() -> Iterator[None]:
    """This process as the only rank."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def full(gradient: Tensor | None) -> Tensor | None:
    """A gradient whole; that of ``fully_shard`` is in parts."""
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


@EVERY_OBJECTIVE
@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of a view that is returned; nothing writes into it
@pytest.mark.parametrize("wrap", ["ddp", "fully_shard"])
def test_a_distributed_model_is_what_every_objective_runs(model: dict[str, Any], data: str, wrap: str, text: str, tmp_path: Path) -> None:
    """A step through DDP and FSDP2, whose hooks run in their forward pass alone, has the loss and the gradients of the plain model."""
    (tmp_path / "labels.tsv").write_text(LABELS)
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    options = {name: value for name, value in OPTIONS.items() if name != "objective"} | {"data.paths": [str(tmp_path / data)]}
    config = build_config({"model": model}, options)
    steps = []
    for distributed in (False, True):
        plain, objective = build_run(config)
        plain.double()
        objective.prepare(plain)
        calls: list[int] = []
        module: nn.Module = plain
        if distributed and wrap == "ddp":
            module = DistributedDataParallel(plain, find_unused_parameters=True)
        elif distributed:
            fully_shard(plain, mesh=init_device_mesh("cpu", (1,)))
        module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        runner = ModelRunner(module, torch.device("cpu"))
        batch = objective.batch(0, config.batch)
        loss = objective.loss(runner, batch)
        torch.autograd.backward(loss / objective.num_targets(batch))
        assert calls
        steps.append((loss.detach(), {name: full(parameter.grad) for name, parameter in plain.named_parameters()}))
    (loss, gradients), (other_loss, other_gradients) = steps
    torch.testing.assert_close(other_loss, loss, rtol=1e-12, atol=0)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())
    for name, gradient in gradients.items():
        other = other_gradients[name]
        zero = torch.zeros(()) if gradient is None else torch.zeros_like(gradient)
        torch.testing.assert_close(zero if other is None else other, zero if gradient is None else gradient, check_dtype=False)
