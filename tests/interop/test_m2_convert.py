"""Official M2-BERT checkpoints made into runs; ``subquad embed`` and ``subquad classify`` on them, and embeddings of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import subquad
from subquad.cli import main
from subquad.errors import RunError
from subquad.interop.official import kind_of
from subquad.models.base import Model
from subquad.models.classifier import Classifier
from subquad.models.encoder import Encoder
from tests.interop.test_convert import M2_BERT

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "s", "##at", "sat", "on", "mat", "##s", "."]
TEXTS = ["The cat sat.", "on the mats", "cat", "the cat sat on the mat. The cat sat on the mat"]


def official_state(kind: str, masked: bool = False, config: dict[str, Any] = M2_BERT) -> dict[str, Tensor]:
    """A state as official code would save it, with random weights."""
    torch.manual_seed(0)
    build, keys = kind_of(kind).plan(config, {"cls.": torch.empty(0)} if masked else {})
    module = build()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    state = keys.write(module.state_dict())
    state |= {copy: state[key.official] for key in keys.keys for copy in key.copies}
    state |= {one.official: torch.zeros(one.value.shape) if one.value.is_meta else one.value for one in keys.constants}
    return {name: one.clone(memory_format=torch.contiguous_format) for name, one in state.items()}


@pytest.fixture
def wordpiece(tmp_path: Path) -> Path:
    """A tokenizer.json like that of bert-base-uncased, with a small vocabulary."""
    encoder = tokenizers.Tokenizer(tokenizers.models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    encoder.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    encoder.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    encoder.enable_padding(length=16)  # as such files may hold; a text is read without
    encoder.save(str(tmp_path / "wordpiece.json"))
    return tmp_path / "wordpiece.json"


def run_of(folder: Path, kind: str, state: dict[str, Tensor], config: dict[str, Any] = M2_BERT, **options: Any) -> Model:
    wrapped = {"state": {"model": {f"model.{name}": one for name, one in state.items()}}}  # as Composer saves it
    torch.save(wrapped, folder / "checkpoint.pt")
    model = subquad.load(subquad.convert(folder / "checkpoint.pt", kind, folder / "run", config, **options))
    assert isinstance(model, Model)
    return model


def converted(folder: Path, kind: str, state: dict[str, Tensor], **options: Any) -> Encoder:
    model = run_of(folder, kind, state, **options)
    assert isinstance(model, Encoder)
    return model


def frames(texts: list[str], length: int = 24) -> tuple[Tensor, Tensor]:
    """The ids of TEXTS[0] and TEXTS[2] filled up, and their masks, written out."""
    rows = {TEXTS[0]: [2, 5, 6, 9, 13, 3], TEXTS[2]: [2, 6, 3]}
    ids = torch.tensor([rows[text] + [0] * (length - len(rows[text])) for text in texts])
    return ids, (ids > 0).long()


@torch.no_grad()
def test_a_masked_language_model_becomes_an_encoder(tmp_path: Path) -> None:
    state = official_state("m2-bert", masked=True)
    model, ids = converted(tmp_path, "m2-bert", state), torch.randint(50, (2, 24))
    torch.testing.assert_close(model(ids), subquad.from_official("m2-bert", M2_BERT, state)(ids))
    assert model.config.padding == "masked" and main(["info", str(tmp_path / "run")]) == 0


@torch.no_grad()
def test_a_retrieval_model_embeds_texts_alone_as_in_company(wordpiece: Path, tmp_path: Path) -> None:
    state = official_state("m2-bert-embedding")
    model = converted(tmp_path, "m2-bert-embedding", state, tokenizer=wordpiece)
    together = subquad.embed(model, TEXTS)
    assert together.shape == (4, 8) and together.dtype == torch.float32
    for row, text in zip(together, TEXTS, strict=True):
        torch.testing.assert_close(subquad.embed(model, [text])[0], row, rtol=0, atol=1e-5)
    ids, _ = frames(TEXTS[:1], 6)
    torch.testing.assert_close(model(ids)[0], together[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_official_padding_fills_texts_up_as_the_original_encoder_does(wordpiece: Path, tmp_path: Path) -> None:
    state = official_state("m2-bert-embedding")
    model = converted(tmp_path, "m2-bert-embedding", state, tokenizer=wordpiece, padding="official")
    ids, mask = frames(TEXTS[:1])
    official = subquad.from_official("m2-bert-embedding", M2_BERT, state)(ids, mask)
    torch.testing.assert_close(subquad.embed(model, TEXTS[:1]), official, rtol=0, atol=1e-5)
    assert not torch.allclose(subquad.embed(model, TEXTS[:1]), model(ids[:, :6]), atol=1e-3)


NAMES = {"id2label": {"0": "sad", "1": "glad"}, "label2id": {"sad": 0, "glad": 1}}


@pytest.mark.parametrize(
    ("config", "classes", "dropout"),
    [
        ({"num_labels": 3}, ("0", "1", "2"), 0.1),
        ({"classifier_dropout": 0.3, "pool_all": True}, ("0", "1"), 0.3),
        (NAMES | {"hidden_dropout_prob": 0.2}, ("sad", "glad"), 0.2),
        ({"num_labels": 1, "problem_type": "regression"}, (), 0.1),
    ],
    ids=["numbered", "two", "named", "number"],
)
@torch.no_grad()
def test_a_head_of_classes_becomes_a_classifier(
    config: dict[str, Any], classes: tuple[str, ...], dropout: float, wordpiece: Path, tmp_path: Path
) -> None:
    """Without padding it gives the official scores, of texts alone as in company; with official padding those of filled texts."""
    config = M2_BERT | config
    state = official_state("m2-bert", config=config)
    official = subquad.from_official("m2-bert", config, state)
    model = run_of(tmp_path, "m2-bert", state, config, tokenizer=wordpiece)
    assert isinstance(model, Classifier) and isinstance(model.backbone, Encoder)
    ours, pooling = model.config, model.backbone.config.pooling
    assert (ours.classes, ours.problem_type) == (classes, "classification" if classes else "regression")
    assert (ours.target_mean, ours.target_std) == (0, 1)
    assert ours.dropout == dropout and pooling.dense and pooling.over == ("mean" if "pool_all" in config else "first")
    asked = [TEXTS[0], TEXTS[2]]
    alone = torch.cat([official(*frames([text], length)) for text, length in zip(asked, (6, 3), strict=True)])
    demand_answers(model, asked, alone)
    other = subquad.load(subquad.convert(tmp_path / "checkpoint.pt", "m2-bert", tmp_path / "other", config, wordpiece, "official"))
    assert isinstance(other, Classifier)
    demand_answers(other, asked, official(*frames(asked)))
    assert not torch.allclose(official(*frames(asked)), alone, atol=1e-3)


def demand_answers(model: Classifier, texts: list[str], scores: Tensor) -> None:
    """The classes, or numbers, that scores (N, labels) mean."""
    if model.config.problem_type == "regression":
        assert subquad.regress(model, texts) == pytest.approx(scores.squeeze(1).tolist(), abs=1e-5)
        return
    for found, row in zip(subquad.classify(model, texts), scores.double().softmax(1), strict=True):
        assert list(found.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert found.probabilities[found.label] == max(found.probabilities.values())


def test_the_command_classifies_with_what_was_converted(wordpiece: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = M2_BERT | NAMES, str(tmp_path / "run")
    torch.save(official_state("m2-bert", config=config), tmp_path / "official.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["convert", str(tmp_path / "official.pt"), "--from", "m2-bert", "--tokenizer", str(wordpiece), "--out", run]) == 0
    (tmp_path / "table.tsv").write_text("text\tlabel\nThe cat sat.\tglad\ncat\tsad\n")
    assert main(["info", run]) == 0
    capsys.readouterr()
    assert main(["classify", run, str(tmp_path / "table.tsv"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["true"] for one in answer["texts"]] == ["glad", "sad"] and set(answer["metrics"]) == {"accuracy", "f1", "matthews"}
    for one, found in zip(answer["texts"], subquad.classify(subquad.load(run), [TEXTS[0], TEXTS[2]]), strict=True):
        assert (one["label"], one["probabilities"]) == (found.label, pytest.approx(found.probabilities))


def test_a_head_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    for change in ({"problem_type": "multi_label_classification"}, {"problem_type": "regression", "num_labels": 2}):
        with pytest.raises(ValueError, match="gives several labels or values per text"):
            run_of(tmp_path, "m2-bert", official_state("m2-bert", config=M2_BERT | change), M2_BERT | change)
    for names, sentence in (
        ({"0": "sad", "2": "glad"}, r"id2label must name the labels 0 to 1, got \[0, 2\]"),
        ({"0": "sad", "1": "sad"}, "classes must differ"),
    ):
        with pytest.raises(ValueError, match=sentence):
            subquad.from_official("m2-bert", M2_BERT | {"id2label": names}, {})
    assert not (tmp_path / "run").exists()


def test_the_command_embeds_files_and_tables(wordpiece: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(official_state("m2-bert-embedding"), tmp_path / "official.pt")
    (tmp_path / "config.json").write_text(json.dumps(M2_BERT))
    run, out = str(tmp_path / "run"), tmp_path / "texts.npy"
    source = [str(tmp_path / "official.pt"), "--from", "m2-bert-embedding", "--tokenizer", str(wordpiece), "--out", run]
    assert main(["convert", *source]) == 0
    (tmp_path / "one.txt").write_text(TEXTS[0])
    (tmp_path / "table.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[1:]))
    capsys.readouterr()
    assert main(["embed", run, str(tmp_path / "one.txt"), str(tmp_path / "table.jsonl"), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [4, 8]
    np.testing.assert_allclose(np.load(out), subquad.embed(subquad.load(run), TEXTS).numpy(), rtol=0, atol=1e-6)
    assert main(["embed", run, str(tmp_path / "one.txt")]) == 2
    assert "--out is missing" in capsys.readouterr().err


def test_what_cannot_be_embedded_is_refused(wordpiece: Path, tmp_path: Path) -> None:
    state = official_state("m2-bert-embedding")
    bare = converted(tmp_path, "m2-bert-embedding", state)
    with pytest.raises(ValueError, match="this model has 56 ids, so it needs its tokenizer"):
        subquad.embed(bare, TEXTS)
    model = subquad.load(subquad.convert(tmp_path / "checkpoint.pt", "m2-bert-embedding", tmp_path / "other", M2_BERT, wordpiece))
    with pytest.raises(ValueError, match="a text has 32 ids and the context is 24"):
        subquad.embed(model, ["cat " * 30])
    cut = subquad.embed(model, ["cat " * 30], truncate=True)
    torch.testing.assert_close(cut, subquad.embed(model, ["cat " * 22]))  # [SEP] still stands at the end
    with pytest.raises(ValueError, match="byte 1 is not UTF-8"):
        subquad.embed(model, [b"a\xff"])
    with pytest.raises(ValueError, match="an encoder pools as its config says, got pooling='last'"):
        subquad.embed(model, ["a"], pooling="last")
    with pytest.raises(ValueError, match='padding is "masked", or "official" for an encoder'):
        subquad.convert(tmp_path / "checkpoint.pt", "m2-bert-embedding", tmp_path / "third", M2_BERT, padding="left")  # type: ignore[arg-type]
    (tmp_path / "other" / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(RunError, match=r"is not a tokenizer\.json"):
        subquad.load(tmp_path / "other", verify=False)


@torch.no_grad()
def test_an_encoder_of_bytes_embeds_bytes(tmp_path: Path) -> None:
    model = subquad.build("m2-bert-tiny", {"head": "none", "pooling.normalized": True}).eval()
    subquad.save(model, tmp_path / "run")
    texts: list[bytes | str] = [b"\x00\xff", "é", "a longer text than the others"]
    found = subquad.embed(subquad.load(tmp_path / "run"), texts)
    for row, text in zip(found, texts, strict=True):
        ids = torch.tensor([list(text if isinstance(text, bytes) else text.encode())])
        torch.testing.assert_close(model(ids)[0], row, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"texts\[1\]: a text is empty: leave it out"):
        subquad.embed(model, ["a", ""])
