"""Masked language modelling: what is hidden and how, that it is learned, that a resumed run is the same run, subwords, wrong inputs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from subquad import api, run_folder
from subquad.data.corpus import Corpus
from subquad.data.tokenizer import Tokenizer
from subquad.models.encoder import Encoder
from subquad.objectives.base import ModelRunner
from subquad.objectives.masked_lm import MaskedLM
from subquad.sections import Table
from subquad.training.config import build_config, read
from subquad.training.trainer import Trainer, build_run
from tests.training.logs import read_log

MIXER = {"kind": "m2_bert", "two_sided": True, "filter": {"kind": "implicit", "features": 3, "width": 8}}
FEED = {"gated": True, "blocks": 2, "activation": "gelu"}
STACK = {"dim": 16, "depth": 1, "mixer": MIXER, "feedforward": FEED, "norm": "after", "mixer_residual": False, "dropout": 0.1}
MODEL: dict[str, Any] = {"kind": "encoder", "max_len": 32, "init_std": 0.1, "blank": "learned", "stack": STACK}
OPTIONS: dict[str, Any] = {"steps": 12, "batch": 4, "accumulate": 2, "dtype": "float32", "device": "cpu", "optim.lr": 1e-2}
OPTIONS |= {"eval.every": 4, "save.every": 4, "eval.windows": 8}


def trained(corpus: Corpus, out: Path, changes: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> Path:
    return api.train(model or MODEL, corpus.paths, out, OPTIONS | (changes or {}), quiet=True)


def prepared(corpus: Corpus) -> tuple[Encoder, MaskedLM]:
    model, objective = build_run(build_config({"model": MODEL, "data": {"paths": corpus.paths}}, {}))
    assert isinstance(objective, MaskedLM) and isinstance(model, Encoder)
    objective.prepare(model)
    return model, objective


def test_it_learns(tmp_path: Path) -> None:
    """Of letters that repeat with a period of 4, all are known from their neighbours, on either side."""
    path = tmp_path / "letters.txt"
    path.write_bytes(b"abcd" * 2000)
    run = api.train(MODEL, str(path), tmp_path / "run", OPTIONS | {"steps": 150, "eval.every": 50, "batch": 16}, quiet=True)
    best = api.info(run)["best_validation"]
    assert best["cross_entropy"] < 0.1 and best["masked_accuracy"] > 0.98
    model = api.load(run)
    assert isinstance(model, Encoder)
    ids = torch.tensor([list(b"abcdabcdabcdabcdabcdabcd")])
    blanks = torch.zeros_like(ids, dtype=torch.bool)
    blanks[0, 13] = True
    with torch.no_grad():
        assert model(ids, masked=blanks)[0, 13].argmax() == ord("b")
    for use in (api.generate, api.score):
        with pytest.raises(ValueError, match="an encoder predicts masked positions"):
            use(model, b"abcd")


def test_what_is_asked_for_is_not_seen(corpus: Corpus) -> None:
    """The loss is that of ``forward`` with blanks, position by position; short windows are padded and nothing of it is asked for."""
    model, objective = prepared(corpus)
    batch = objective.batch(0, 6)
    masked, runner = batch.masked, ModelRunner(model.double().eval(), torch.device("cpu"))
    logits = model(torch.from_numpy(masked.input_ids).long(), masked=torch.from_numpy(masked.masked))
    bits = torch.nn.functional.cross_entropy(logits.mT, torch.from_numpy(batch.ids).long(), reduction="none")
    asked = torch.from_numpy(masked.targets)
    torch.testing.assert_close(objective.loss(runner, batch), bits[asked].sum())
    parts = [objective.loss(runner, batch.rows(first, first + 2)) for first in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), bits[asked].sum())
    assert objective.num_targets(batch) == int(asked.sum()) and objective.num_bytes(batch) == 6 * 32


def test_an_extended_run_goes_on_bit_for_bit(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(corpus, tmp_path / "whole")
    records = read_log(whole)
    assert records[1]["cross_entropy"] == pytest.approx(math.log(256), rel=0.3) and "masked_accuracy" in records[5]
    save = Trainer._save

    def stopping(self: Any, counters: Any) -> None:
        save(self, counters)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained(corpus, tmp_path / "parts")
    monkeypatch.undo()
    parts = api.train(None, None, tmp_path / "parts", resume=True, quiet=True)
    same = [[{**record, "seconds": 0} for record in read_log(run) if record["kind"] == "valid"] for run in (whole, parts)]
    assert same[0] == same[1]
    one, other = (run_folder.load(run / "state" / "step-00000012").state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_word_pieces(corpus: Corpus, tmp_path: Path) -> None:
    """A WordPiece is learnt; windows stand between its special tokens, which are never asked for; the run embeds texts with it."""
    pytest.importorskip("tokenizers")
    changes = {"data.tokenizer": 120, "model.vocab": 120, "model.mask_token": 4, "steps": 4, "data.window": 24}
    run = trained(corpus, tmp_path / "run", changes)
    model = api.load(run)
    assert isinstance(model, Encoder) and isinstance(model.tokenizer, Tokenizer) and model.tokenizer.vocab <= 120
    assert model.tokenizer.special_tokens == ([2], [3]) and model.tokenizer.mask_id == 4
    ids = model.tokenizer.encode(b"Bottles of beer").tolist()
    assert ids[0] == 2 and ids[-1] == 3 and ids[1:-1] == model.tokenizer.encode(b"bottles of beer").tolist()[1:-1]
    assert api.embed(model, ["bottles", b"of beer on the wall"]).shape == (2, 16)
    fresh, objective = build_run(read(run))
    objective.prepare(fresh, run / "tokenizer.json")
    batch = objective.batch(0, 5)
    assert batch.ids.shape == (5, 24)
    assert (batch.ids[:, 0] == 2).all() and all(row[length - 1] == 3 for row, length in zip(batch.ids, batch.lengths, strict=True))
    assert not batch.masked.targets[:, 0].any() and not (batch.masked.targets & (batch.ids == 3)).any()
    assert objective.num_bytes(batch) > 5 * 24
    assert json.loads((run / "tokenizer.json").read_text())["model"]["type"] == "WordPiece"
    with pytest.raises(ValueError, match=r"the tokenizer's \[MASK\] is id 4 and the model's mask token 9: set model.mask_token=4"):
        trained(corpus, tmp_path / "other", changes | {"model.mask_token": 9})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model.mask_token": None}, "the encoder has no mask token"),
        ({"model.head": "none"}, r"book\.txt is not a table by its name: .*objective\.columns\.table"),
        ({"data.window": 33}, "a window of 33 ids exceeds the model's context of 32"),
        ({"data.tokenizer": 40}, "at least 64 tokens"),
        ({"data.tokenizer": 100, "model.vocab": 20}, "and the model a vocabulary of 20: set model.vocab="),
        ({"eval.sample_bytes": 3}, "cannot generate samples"),
        ({"objective.mask_replace_prob": 0.8, "objective.random_replace_prob": 0.3}, "at most 1 together, got 0.8 and 0.3"),
        ({"data.valid": "x.tsv"}, "the objective 'masked_lm' does not read data.valid"),
        ({"model.mask_token": 103}, "the mask token 103 is also a byte: set model.mask_token=learned"),
        ({"objective.loss": "orthogonal"}, "unknown key 'loss' in 'objective'"),
        ({"objective.kind": "contrastive"}, "the objective 'contrastive' does not train this model"),
        ({"objective": "next_tokens"}, "unknown objective 'next_tokens': did you mean 'next_token'"),
    ],
)
def test_what_cannot_be_is_refused(corpus: Corpus, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trained(corpus, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="tasks are for causal models"):
        api.train(MODEL, "synthetic:recall", tmp_path / "run", {"steps": 1}, quiet=True)


@pytest.mark.parametrize("tokens", [False, True])
def test_the_report_shows_filled_blanks(corpus: Corpus, tmp_path: Path, tokens: bool) -> None:
    if tokens:
        pytest.importorskip("tokenizers")
    changes = {"data.tokenizer": 120, "model.vocab": 120, "model.mask_token": 4, "data.window": 24} if tokens else {}
    run = trained(corpus, tmp_path / "run", {**changes, "steps": 4})
    model, objective = build_run(read(run))
    objective.prepare(model, run / "tokenizer.json" if tokens else None)
    (shown,) = objective.sections(api.load(run).eval())
    assert isinstance(shown, Table) and shown.title == "Filled blanks" and shown.wrap and 1 <= len(shown.rows) <= 12
    for context, right, predictions in shown.rows:
        assert context.count("[▁]") == 1 and right and len(re.findall(r" \d+%", predictions)) == 3
    assert "<h2>Filled blanks</h2>" in (run / "report.html").read_text()


def test_the_most_frequent_byte_is_the_baseline(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"aaab" * 30000)
    run = api.train(
        MODEL, str(tmp_path / "text"), tmp_path / "run", {"steps": 1, "batch": 2, "device": "cpu", "dtype": "float32"}, quiet=True
    )
    found = api.info(run)["baseline"]
    assert found["name"] == "always a" and found["masked_accuracy"] == pytest.approx(0.75, abs=0.05)
