"""Masked language modelling: what is hidden and how, that it is learned, that a resumed run is the same run, subwords, wrong inputs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from subquad import api, run_folder
from subquad.data.corpus import Corpus
from subquad.data.subwords import Subwords
from subquad.models.encoder import Encoder
from subquad.training.beginning import build_objective
from subquad.training.config import TrainConfig, read
from subquad.training.masked import MaskedPrediction
from subquad.training.objectives import Place
from subquad.training.trainer import Trainer
from tests.training.logs import read_log

MIXER = {"kind": "monarch_mixer", "two_sided": True, "filter": {"kind": "implicit", "features": 3, "width": 8}}
FEED = {"gated": True, "blocks": 2, "activation": "gelu"}
STACK = {"dim": 16, "depth": 1, "mixer": MIXER, "feedforward": FEED, "norm": "after", "mixer_residual": False, "dropout": 0.1}
MODEL: dict[str, Any] = {"kind": "encoder", "max_len": 32, "init_std": 0.1, "blank": "learned", "stack": STACK}
OPTIONS: dict[str, Any] = {"steps": 12, "batch": 4, "accumulate": 2, "dtype": "float32", "device": "cpu", "optim.lr": 1e-2}
OPTIONS |= {"eval.every": 4, "save.every": 4, "eval.windows": 8}


def trained(corpus: Corpus, out: Path, changes: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> Path:
    return api.train(model or MODEL, corpus.paths, out, OPTIONS | (changes or {}), quiet=True)


def objective(corpus: Corpus, changes: dict[str, Any] | None = None) -> MaskedPrediction:
    config = TrainConfig(model=MODEL).model_copy(update={"data": read_data(corpus)})
    made = build_objective(api._train_config(config.model_dump(mode="json"), None, changes or {}, None))[1]
    assert isinstance(made, MaskedPrediction)
    made.set_up(config)
    return made


def read_data(corpus: Corpus) -> Any:
    return TrainConfig(model=MODEL).data.model_copy(update={"paths": tuple(corpus.paths)})


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
        with pytest.raises(ValueError, match="an encoder guesses what is hidden"):
            use(model, b"abcd")


def test_what_is_asked_for_is_not_seen(corpus: Corpus) -> None:
    """The loss is that of ``forward`` with blanks, position by position; short windows are padded and nothing of it is asked for."""
    made = objective(corpus)
    made.model.double().eval()
    batch = made.batch(0, 6)
    assert batch.masked is not None
    masked, place = batch.masked, Place(torch.device("cpu"))
    logits = made.model(torch.from_numpy(masked.input_ids).long(), masked=torch.from_numpy(masked.masked))
    bits = torch.nn.functional.cross_entropy(logits.mT, torch.from_numpy(batch.ids).long(), reduction="none")
    asked = torch.from_numpy(masked.targets)
    torch.testing.assert_close(made.nats(batch, place), bits[asked].sum())
    parts = [made.nats(batch.rows(first, first + 2), place) for first in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), bits[asked].sum())
    assert made.count(batch) == int(asked.sum()) and made.bytes(batch) == 6 * 32


def test_an_extended_run_goes_on_bit_for_bit(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(corpus, tmp_path / "whole")
    records = read_log(whole)
    assert records[0]["cross_entropy"] == pytest.approx(math.log(256), rel=0.3) and "masked_accuracy" in records[4]
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
    assert isinstance(model, Encoder) and isinstance(model.tokenizer, Subwords) and model.tokenizer.vocab <= 120
    assert model.tokenizer.frame == ([2], [3]) and model.tokenizer.blank == 4
    ids = model.tokenizer.encode(b"Bottles of beer").tolist()
    assert ids[0] == 2 and ids[-1] == 3 and ids[1:-1] == model.tokenizer.encode(b"bottles of beer").tolist()[1:-1]
    assert api.embed(model, ["bottles", b"of beer on the wall"]).shape == (2, 16)
    config = read(run)
    made = build_objective(config)[1]
    assert isinstance(made, MaskedPrediction)
    made.set_up(config, run / "tokenizer.json")
    batch = made.batch(0, 5)
    assert batch.masked is not None and batch.ids.shape == (5, 24)
    assert (batch.ids[:, 0] == 2).all() and all(row[length - 1] == 3 for row, length in zip(batch.ids, batch.lengths, strict=True))
    assert not batch.masked.targets[:, 0].any() and not (batch.masked.targets & (batch.ids == 3)).any()
    assert made.bytes(batch) > 5 * 24
    assert json.loads((run / "tokenizer.json").read_text())["model"]["type"] == "WordPiece"
    with pytest.raises(ValueError, match=r"the tokenizer's \[MASK\] is id 4 and the model's blank 9: set model.mask_token=4"):
        trained(corpus, tmp_path / "other", changes | {"model.mask_token": 9})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model.mask_token": None}, "nothing stands for ids that are hidden"),
        ({"model.head": "none"}, r"book\.txt is not a table by its name: .*data\.pairs\.table"),
        ({"data.window": 33}, "a window of 33 ids exceeds the model's context of 32"),
        ({"data.tokenizer": 40}, "at least 64 tokens"),
        ({"data.tokenizer": 100, "model.vocab": 20}, "and the model a vocabulary of 20: set model.vocab="),
        ({"eval.sample_bytes": 3}, "an encoder writes nothing"),
        ({"mask.mask_replace_prob": 0.8, "mask.random_replace_prob": 0.3}, "at most 1 together, got 0.8 and 0.3"),
        ({"data.valid": "x.tsv"}, "for tables of labelled texts or pairs"),
        ({"model.mask_token": 103}, "id 103 of bytes would be read as a blank: set model.mask_token=learned"),
        ({"contrast.loss": "orthogonal"}, "contrast and data.pairs are for an encoder that learns from pairs: set model.head=none"),
        ({"data.pairs.query": "question"}, "set model.head=none"),
        ({"data.columns.text": "sentence"}, "data.columns is for labelled texts"),
    ],
)
def test_what_cannot_be_is_refused(corpus: Corpus, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trained(corpus, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="a task asks what comes next"):
        api.train(MODEL, "synthetic:recall", tmp_path / "run", {"steps": 1}, quiet=True)
