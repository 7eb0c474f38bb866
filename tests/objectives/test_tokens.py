"""Training on tokens: losses for bytes, one tokenizer for the whole life of a run, and refusals before any work."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from subquad import manifest, run_folder
from subquad.data.config import DataConfig
from subquad.data.corpus import Corpus
from subquad.data.tokenizer import Tokenizer, open_tokenizer
from subquad.data.windows import Windows
from subquad.errors import RunError
from subquad.models.base import CausalModel
from subquad.objectives.next_token import NextToken
from subquad.training.config import read
from subquad.training.trainer import Trainer
from tests.training.conftest import MakeTrainer
from tests.training.logs import read_log
from tests.training.test_trainer import assert_same, losses, stopping_at

TOKENS: dict[str, Any] = {"data.tokenizer": 280, "model.vocab": 280}


def trained(run: Path) -> Tokenizer:
    tokenizer = open_tokenizer(run / "tokenizer.json")
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer


def windows(trainer: Trainer) -> Windows:
    assert isinstance(trainer.objective, NextToken)
    return trainer.objective._train.windows


def test_a_run_of_tokens_keeps_its_tokenizer(tmp_path: Path, make_trainer: MakeTrainer, corpus: Corpus) -> None:
    out = tmp_path / "run"
    trainer = make_trainer(out, TOKENS)
    trainer.run()
    split = corpus.split(seed=0)
    assert trained(out).to_bytes() == Tokenizer.train(split.train, 280).to_bytes() != Tokenizer.train(split.valid, 280).to_bytes()
    manifest.check(out)
    assert {"tokenizer.json", "state/step-00000012/tokenizer.json"} <= manifest.read_manifest(out).files.keys()
    assert read(out).data.tokenizer == 280 and read(out).data.window == 32
    for folder in (out, out / "state" / "step-00000012"):
        model = run_folder.load(folder)
        assert isinstance(model, CausalModel) and model.tokenizer is not None
        assert model.tokenizer.to_bytes() == trained(out).to_bytes()


def test_bytes_are_counted_and_not_tokens(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(tmp_path / "run", {**TOKENS, "steps": 3, "accumulate": 1})
    trainer.run()
    tokenizer = trained(tmp_path / "run")
    read_bytes = 0
    for step in range(3):
        ids, lengths = windows(trainer).batch(4 * step, 4)
        read_bytes += sum(len(tokenizer.decode(row[:length])) for row, length in zip(ids, lengths, strict=True))
    records = [record for record in read_log(tmp_path / "run") if record["kind"] == "train"]
    assert records[-1]["bytes"] == read_bytes > 3 * 4 * 32
    # Untrained weights give every token the same probability, whatever it stands for.
    ids, lengths = windows(trainer).batch(0, 4)
    first = len(tokenizer.decode(ids.ravel()))
    assert (lengths == 32).all() and records[0]["bits_per_byte"] == pytest.approx(4 * 32 * math.log2(280) / first, abs=0.02)


def test_validation_is_the_sum_of_log_probabilities_over_bytes(tmp_path: Path, make_trainer: MakeTrainer, corpus: Corpus) -> None:
    trainer = make_trainer(tmp_path / "run", {**TOKENS, "eval.windows": 1000})
    result = trainer.run()
    model = run_folder.load(tmp_path / "run")
    (span,) = corpus.split(seed=0).valid
    data = span.read(0, span.size).tobytes()
    ids = torch.from_numpy(trained(tmp_path / "run").encode(data)).long()
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids), 32):
            window = ids[None, start : start + 32]
            nats -= model(window).log_softmax(-1).gather(-1, window[..., None]).sum().item()
    assert result.best == pytest.approx(nats / math.log(2) / len(data), rel=1e-5)


def test_only_the_bytes_of_the_learnt_span_are_counted(tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path / "run", {**TOKENS, "steps": 1, "save.every": 10})
    monkeypatch.setattr(type(trainer.model), "training_spans", lambda self, length: [(8, 20)])
    trainer.run()
    ids, _ = windows(trainer).batch(0, 4)
    (record,) = (record for record in read_log(tmp_path / "run") if record["kind"] == "train")
    assert record["bytes"] == len(trained(tmp_path / "run").decode(ids[:, 8:20].ravel()))
    assert record["bits_per_byte"] == pytest.approx(4 * 12 * math.log2(280) / record["bytes"], abs=0.02)


def test_a_resumed_run_of_tokens_equals_the_uninterrupted_one(
    tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(whole, TOKENS).run()
    assert make_trainer(parts, TOKENS, stopping_at(4)).run().reason == "interrupted"
    monkeypatch.setattr(Tokenizer, "train", None)  # the run's own is read
    assert make_trainer(parts, config=read(parts)).run(resume=True).reason == "finished"
    assert_same(whole, parts)
    assert (whole / "tokenizer.json").read_bytes() == (parts / "tokenizer.json").read_bytes()
    manifest.check(parts)


def test_a_tokenizer_from_a_file(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    make_trainer(tmp_path / "one", {**TOKENS, "steps": 3}).run()
    (tmp_path / "other.json").write_bytes((tmp_path / "one" / "tokenizer.json").read_bytes())
    given = {**TOKENS, "data.tokenizer": str(tmp_path / "other.json"), "steps": 3}
    make_trainer(tmp_path / "two", given).run()
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    (tmp_path / "other.json").unlink()
    make_trainer(tmp_path / "two", {**given, "steps": 4}).run(resume=True)
    # More ids than tokens are allowed: official models pad their vocabulary.
    make_trainer(tmp_path / "wide", {**TOKENS, "model.vocab": 288, "steps": 1}).run()


def test_a_resumed_run_cannot_change_its_tokenizer(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    out = tmp_path / "run"
    make_trainer(out, {**TOKENS, "steps": 2}).run()
    for other in (270, str(out / "tokenizer.json"), None):
        with pytest.raises(ValueError, match=r"cannot change data\.tokenizer"):
            make_trainer(out, {**TOKENS, "steps": 4, "data.tokenizer": other}).run(resume=True)
    (out / "tokenizer.json").write_bytes(Tokenizer.train(Corpus.open([out / "log.jsonl"]).split().train, 280).to_bytes())
    with pytest.raises(RunError, match=r"tokenizer\.json is damaged"):
        make_trainer(out, {**TOKENS, "steps": 4}).run(resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.vocab": 256}, r"the tokenizer has 280 tokens and the model a vocabulary of 256: set model\.vocab=280"),
        ({"data.tokenizer": 100}, "at least 256 tokens"),
        ({"data.tokenizer": "none.json"}, "cannot read the tokenizer none.json"),
        ({"data.window": 33}, "a window of 33 ids exceeds"),
    ],
)
def test_wrong_settings_are_refused_before_a_file_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path / "run", TOKENS | changes).run()
    assert not list((tmp_path / "run").iterdir())


def test_images_have_no_tokens() -> None:
    with pytest.raises(ValueError, match="images have no tokens"):
        DataConfig.model_validate({"tokenizer": 300, "image": {"height": 4, "width": 4}})


def test_data_that_is_no_text_is_refused(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    (tmp_path / "noise.bin").write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(ValueError, match="noise.bin: byte .* is not UTF-8"):
        make_trainer(tmp_path / "run", TOKENS | {"data.paths": [str(tmp_path / "noise.bin")]}).run()


def test_weights_of_another_tokenizer_are_no_start(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    make_trainer(tmp_path / "first", {**TOKENS, "steps": 1}).run()
    start = run_folder.load(tmp_path / "first")
    assert isinstance(start, CausalModel)
    same = make_trainer(tmp_path / "same", {**TOKENS, "steps": 1})
    same.model.tokenizer = start.tokenizer
    same.run()
    for changes in ({"data.tokenizer": 270}, {"data.tokenizer": None}):
        other = make_trainer(tmp_path / "other", {**TOKENS, **changes})
        other.model.tokenizer = start.tokenizer
        with pytest.raises(ValueError, match="were trained with another tokenizer"):
            other.run()


def test_byte_runs_have_no_tokenizer(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    make_trainer(tmp_path / "run", {"steps": 1}).run()
    model: Any = run_folder.load(tmp_path / "run")
    assert model.tokenizer is None and not list((tmp_path / "run").rglob("tokenizer.json"))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["files"]["train.yaml"]
    weights: dict[str, Tensor] = model.state_dict()
    assert not any("tokenizer" in name for name in weights)
