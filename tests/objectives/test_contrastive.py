"""Learning from pairs: the loss is its formula over embeddings, padding and order change nothing, it is learned, wrong inputs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from subquad import api, manifest
from subquad.cli.train import main
from subquad.data.config import DataConfig
from subquad.data.pairs import Pair, Pairs
from subquad.models.encoder import Encoder
from subquad.objectives.base import ModelRunner, Setup
from subquad.objectives.contrastive import Contrastive, ContrastiveConfig, infonce, orthogonal
from tests.objectives.test_masked_lm import MODEL, STACK
from tests.training.logs import read_log

MADE: dict[str, Any] = {**MODEL, "head": "none", "stack": {**STACK, "dropout": 0.0}}
OPTIONS: dict[str, Any] = {"steps": 60, "batch": 8, "dtype": "float32", "device": "cpu", "optim.lr": 1e-2}
OPTIONS |= {"eval.every": 30, "save.every": 60, "data.fractions": [0.75, 0.25, 0.0]}
PAIRS = [Pair(b"one", b"first"), Pair(b"two", b"the second"), Pair(b"one", b"1"), Pair(b"uno", b"first"), Pair(b"three", b"3")]


def prepared(loss: str = "infonce", pairs: list[Pair] = PAIRS) -> tuple[ModelRunner, Contrastive]:
    torch.manual_seed(0)
    model = api.build(MADE)
    assert isinstance(model, Encoder)
    config = ContrastiveConfig.model_validate({"loss": loss, "temperature": 0.1})
    objective = Contrastive(config, Setup(model.config, DataConfig(), 0, 8, 8), Pairs(pairs, [], [], []))
    objective.prepare(model)
    return ModelRunner(model.double().eval(), torch.device("cpu")), objective


def embedded(model: torch.nn.Module, texts: list[bytes]) -> torch.Tensor:
    """Each text alone, without padding."""
    return F.normalize(torch.cat([model(torch.tensor([list(text)]), output="embedding") for text in texts]), dim=1)


@pytest.mark.parametrize("loss", ["infonce", "orthogonal"])
def test_the_loss_is_that_of_texts_alone(loss: str) -> None:
    """Batches pad; what is learned is the formula over each text's own vector, with every passage once and none wrong that is right."""
    runner, objective = prepared(loss)
    batch = objective.rows(np.arange(5))
    passages = [b"first", b"the second", b"1", b"3"]
    similarity = embedded(runner.module, [pair.query for pair in PAIRS]) @ embedded(runner.module, passages).T
    own = torch.tensor([0, 1, 2, 0, 3])
    known = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]).bool()
    expected = orthogonal(similarity, known) if loss == "orthogonal" else infonce(similarity, own, known, 0.1)
    torch.testing.assert_close(objective.loss(runner, batch), expected.sum(), rtol=0, atol=1e-9)
    assert objective.num_targets(batch) == 5 and objective.num_bytes(batch) == 3 + 3 + 3 + 3 + 5 + 5 + 10 + 1 + 1
    parts = [objective.loss(runner, batch.rows(first, first + 2)) for first in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), expected.sum(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", ["infonce", "orthogonal"])
def test_the_order_of_a_batch_changes_nothing(loss: str) -> None:
    runner, objective = prepared(loss)
    one, other = (objective.loss(runner, objective.rows(np.array(places))) for places in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_negative_is_one_more_passage() -> None:
    _, objective = prepared(pairs=[Pair(b"one", b"first", b"last"), Pair(b"two", b"second", b"first")])
    batch = objective.rows(np.arange(2))
    assert len(batch.passages) == 3
    assert batch.target.tolist() == [0, 2] and batch.relevant.tolist() == [[True, False, False], [False, False, True]]


def table(path: Path, count: int = 64) -> str:
    """A query names two letters; its passage is made of them."""
    draw = np.random.default_rng(0)
    lines = ["query\tpassage"]
    for place in range(count):
        one, other = chr(97 + place // 8), chr(105 + place % 8)
        lines.append(f"{one} {other}\t{''.join(draw.choice([one, other], 24))}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("loss", ["infonce", "orthogonal"])
def test_it_learns(tmp_path: Path, loss: str) -> None:
    """From a masked language model on: queries that were never seen find their passages."""
    start = api.train(
        MODEL, table(tmp_path / "text.tsv"), tmp_path / "start", {**OPTIONS, "steps": 1, "data.fractions": [1, 0, 0]}, quiet=True
    )
    changes = {"steps": 80, "model.head": "none", "objective.loss": loss, "objective.temperature": 0.1}
    run = api.train(MODEL, table(tmp_path / "pairs.tsv"), tmp_path / "run", OPTIONS | changes, init=start, quiet=True)
    first, best = read_log(run)[1]["pair_loss"], api.info(run)["best_validation"]
    assert best["pair_loss"] < 0.6 * first and best["in_batch_accuracy"] > 0.6
    assert json.loads((run / "data.json").read_text())["parts"]["valid"]["queries"] == 16
    assert "loss per query" in (run / "report.html").read_text()
    model = api.load(run)
    assert isinstance(model, Encoder) and model.config.head == "none"
    near = F.normalize(api.embed(model, ["a k", "akakkakakaakakkaakakakak", "hphphhphpphphpphhphphphp"]), dim=1)
    assert near[0] @ near[1] > near[0] @ near[2]
    again = api.train(None, None, run, {"steps": 81}, resume=True, quiet=True)
    assert [record["kind"] for record in read_log(again) if record["step"] == 81][-1] == "end"
    manifest.check(again)


def test_from_the_command_line(tmp_path: Path) -> None:
    pairs, out = table(tmp_path / "pairs.tsv", 16), tmp_path / "run"
    settings = [f"--set={key}" for key in ("model.head=none", "objective.loss=orthogonal", "model.max_len=1024", "batch=4", "accumulate=2")]
    settings.append("--set=data.fractions=[0.4, 0.2, 0.4]")
    main(
        ["m2-bert-tiny", "--data", pairs, "--out", str(out), "--steps", "2", "--quiet", "--device", "cpu", "--dtype", "float32", *settings]
    )
    facts = api.info(out)
    assert facts["best_validation"]["in_batch_accuracy"] >= 0
    pairs = facts["data"]["parts"]["test"]["pairs"]
    chance = math.ceil(pairs / 4) / pairs  # each passage occurs once, so that a batch has as many as queries
    assert pairs > 4 and facts["baseline"] == {"name": "a passage of the batch at random", "in_batch_accuracy": pytest.approx(chance)}


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    pairs = table(tmp_path / "pairs.tsv", 16)

    def refused(changes: dict[str, Any], sentence: str, data: str = pairs) -> None:
        with pytest.raises(ValueError, match=sentence):
            api.train(MADE, data, tmp_path / "run", OPTIONS | changes, quiet=True)

    refused({"batch": 1}, "a batch of one pair has no negatives: raise batch, or name a column objective.columns.negative")
    refused({"data.tokenizer": 10}, "needs at least 64 tokens")
    refused({"objective.mlm_probability": 0.2}, "unknown key 'mlm_probability' in 'objective'")
    refused({"data.window": 33}, "a window of 33 ids exceeds the context of 32: lower data.window")
    refused({"objective.columns.passage": "answer"}, "expected a column 'answer', got 'query', 'passage'")
    refused({"data.format": "fasta"}, "the objective 'contrastive' does not read data.format")
    refused({"eval.sample_bytes": 9}, "cannot generate samples")
    refused({"objective.temperature": 0}, "objective.temperature")
    long = tmp_path / "long.tsv"
    long.write_text("query\tpassage\na\t" + "b" * 33 + "\n")
    refused({}, "a text has 33 ids and the context is 32: raise model.max_len, or truncate with data.window=32", str(long))
