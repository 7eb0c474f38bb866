"""Training a classifier: it learns, the log has its figures, a resumed run is the same run, a language model's run is a start."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subquad import api, manifest, run_folder
from subquad.config import parse
from subquad.data.characters import Characters
from subquad.evaluation.memory import training_memory
from subquad.models.classifier import Classifier
from subquad.models.language_model import LanguageModel, LanguageModelConfig
from subquad.objectives.classification import MOST_CLASSES, Classification, Texts, confusion_table
from subquad.sections import Table
from subquad.training.config import read
from subquad.training.trainer import Trainer, build_run
from tests.training.logs import read_log

MIXER = {"kind": "attention", "heads": 2, "dropout": 0.1}
BACKBONE: dict[str, Any] = {
    "kind": "language_model",
    "max_len": 24,
    "init_std": 0.1,
    "stack": {"dim": 16, "depth": 1, "mixer": MIXER, "dropout": 0.1},
}
OPTIONS: dict[str, Any] = {"steps": 12, "batch": 8, "accumulate": 2, "dtype": "float32", "device": "cpu", "optim.lr": 1e-2}
BACKBONE_CONFIG = parse(LanguageModelConfig, BACKBONE)
LETTERS = str.maketrans("bdx", "gtn")  # those of the texts below in DNA's
OPTIONS |= {"eval.every": 4, "save.every": 4, "data.fractions": [0.6, 0.2, 0.2]}


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Texts of 6 to 24 letters, of two alphabets, whose label says which it was."""
    draw = np.random.default_rng(0)
    lines = ["text\tlabel"]
    for number in range(120):
        letters = draw.choice(list("abcx" if number % 2 else "abcd"), int(draw.integers(6, 25)))
        lines.append("".join(letters) + "\t" + ("with" if number % 2 else "without"))
    path = tmp_path / "table.tsv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def trained(table: str, out: Path, changes: dict[str, Any] | None = None, init: Path | None = None) -> Path:
    model = "classifier" if init else {"kind": "classifier", "backbone": BACKBONE}
    return api.train(model, table, out, OPTIONS | (changes or {}), init=init, quiet=True)


def test_it_learns(table: str, tmp_path: Path) -> None:
    run_options = {"steps": 40, "eval.every": 20, "save.every": 40, "accumulate": 1, "batch": 16}
    run = trained(table, tmp_path / "run", run_options)
    best = api.info(run)["best_validation"]
    assert best["accuracy"] > 0.85 and best["matthews"] > 0.7 and best["cross_entropy"] < 0.5
    model = api.load(run)
    assert isinstance(model, Classifier) and model.config.classes == ("with", "without")
    assert [found.label for found in api.classify(model, ["abcxabxx", b"abcdabdd"])] == ["with", "without"]
    page = (run / "report.html").read_text()
    assert (
        all(f"<h2>{title}</h2>" in page for title in ("Held-out parts", "Accuracy", "Confusion matrix", "Examples")) and "Matthews" in page
    )
    test = read_log(run)[-1]
    assert test["kind"] == "test" and api.info(run)["test"] == {
        name: test[name] for name in ("cross_entropy", "accuracy", "f1", "matthews")
    }
    objective = build_run(read(run))[1]
    assert isinstance(objective, Classification)
    texts = [str(example.text, "ascii") for example in objective.data.test]
    labels = [example.label for example in objective.data.test]
    found = [one.label for one in api.classify(model, texts)]
    assert test["accuracy"] == pytest.approx(np.mean([one == label for one, label in zip(found, labels, strict=True)]))
    assert f"Test accuracy</dt><dd>{test['accuracy']:.1%}" in page and sum(text in page for text in texts) == min(len(texts), 12)


def test_the_log_has_its_figures(table: str, tmp_path: Path) -> None:
    run = trained(table, tmp_path / "run", {"steps": 4})
    records = read_log(run)
    assert [record["kind"] for record in records] == ["start", *["train"] * 4, "valid", "save", "end", "test"]
    assert records[1]["cross_entropy"] == pytest.approx(math.log(2), abs=0.2) and "bits_per_byte" not in records[1]
    valid = records[5]
    assert {"cross_entropy", "accuracy", "f1", "matthews"} <= valid.keys()
    parts = json.loads((run / "data.json").read_text())["parts"]
    assert {name: part["texts"] for name, part in parts.items()} == {"train": 72, "valid": 24, "test": 24}
    manifest.check(run)
    # The figures are those of the kept weights, one text at a time.
    objective = build_run(read(run))[1]
    assert isinstance(objective, Classification)
    texts = objective.data.valid
    found = [api.classify(api.load(run), [text.text])[0] for text in texts]
    assert sum(one.label == text.label for one, text in zip(found, texts, strict=True)) / 24 == pytest.approx(valid["accuracy"])
    nats = -sum(math.log(one.probabilities[str(text.label)]) for one, text in zip(found, texts, strict=True)) / 24
    assert nats == pytest.approx(valid["cross_entropy"], abs=1e-5)


def test_an_extended_run_goes_on_bit_for_bit(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at step 4, with dropout and accumulation, it ends where the uninterrupted one does."""
    whole = trained(table, tmp_path / "whole")
    save = Trainer._save

    def stopping(self: Any, counters: Any) -> None:
        save(self, counters)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained(table, tmp_path / "parts")
    monkeypatch.undo()
    torch.rand(7)
    with pytest.raises(ValueError, match="holds another model than the one named"):
        api.train("transformer-tiny", None, tmp_path / "parts", resume=True, quiet=True)
    parts = api.train({"kind": "classifier", "backbone": BACKBONE}, None, tmp_path / "parts", resume=True, quiet=True)
    same = [[record for record in read_log(run) if record["kind"] == "valid"] for run in (whole, parts)]
    assert [{**record, "seconds": 0} for record in same[0]] == [{**record, "seconds": 0} for record in same[1]]
    one, other = (run_folder.load(run / "state" / "step-00000012").state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulation_changes_nothing_but_rounding(table: str, tmp_path: Path) -> None:
    still = {"steps": 3, "model.backbone.stack.dropout": 0.0, "model.backbone.stack.mixer.dropout": 0.0}
    runs = [trained(table, tmp_path / str(parts), {**still, "accumulate": parts}) for parts in (1, 4)]
    one, other = ([record["cross_entropy"] for record in read_log(run) if record["kind"] == "train"] for run in runs)
    assert one == pytest.approx(other, abs=1e-5)


def test_a_batch_has_its_shortest_texts_first() -> None:
    texts = Texts([np.frombuffer(text, np.uint8) for text in (b"abc", b"a", b"", b"ab", b"d")], np.arange(5))
    batch = texts.batch(np.array([3, 4, 0, 1]))
    assert batch.labels.tolist() == [4, 1, 3, 0] and batch.lengths.tolist() == [1, 1, 2, 3]
    assert [bytes(row[:length].tolist()) for row, length in zip(batch.ids, batch.lengths, strict=True)] == [b"d", b"a", b"ab", b"abc"]


def test_a_language_model_is_a_start(table: str, tmp_path: Path) -> None:
    Path(table).write_text(re.sub("^[abcdx]+", lambda found: found[0].translate(LETTERS), Path(table).read_text(), flags=re.M))
    (tmp_path / "genome.fa").write_bytes(b">one\n" + b"ACGTTGCA" * 200)
    options = {**OPTIONS, "steps": 2, "data.format": "fasta", "data.tokenizer": "dna", "model.vocab": 16, "data.fractions": [0.8, 0.1, 0.1]}
    first = api.train(BACKBONE, str(tmp_path / "genome.fa"), tmp_path / "first", options, quiet=True)
    start = api.load(first)
    assert isinstance(start, LanguageModel) and isinstance(start.tokenizer, Characters)
    assert set(api.generate(start, "AC", max_bytes=40)) <= set(b"ACGTN") and api.score(start, b"acgtNNry\n").bytes == 9
    fine = trained(table, tmp_path / "fine", {"steps": 1, "optim.lr": 1e-9, "model.pooling": "last"}, init=first)
    model = api.load(fine)
    assert isinstance(model, Classifier) and model.config.pooling == "last" and isinstance(model.tokenizer, Characters)
    assert all(torch.allclose(tensor, start.state_dict()[name], atol=1e-6) for name, tensor in model.backbone.state_dict().items())
    # A classifier is a start too: of the same classes with its head, of others without.
    again = trained(table, tmp_path / "again", {"steps": 1, "optim.lr": 1e-9, "model.pooling": "last"}, init=fine)
    assert torch.allclose(api.load(again).state_dict()["head.weight"], model.head.weight, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("classifier", {}, "a classifier needs a backbone"),
        ("transformer-tiny", {"model.backbone": "transformer-tiny"}, "model.backbone is for a classifier"),
        ("transformer-tiny", {"data.valid": ["x.tsv"]}, "the objective 'next_token' does not read data.valid"),
        ("classifier", {"model.backbone": BACKBONE, "eval.sample_bytes": 4}, "cannot generate samples"),
        ("classifier", {"model.backbone": BACKBONE, "data.format": "fasta"}, "the objective 'classification' does not read data.format"),
        ("classifier", {"model.backbone": {**BACKBONE, "max_len": 8}}, r"a text has \d+ ids and the context is 8: .*data\.window=8"),
        ("classifier", {"model.backbone": BACKBONE, "data.window": 25}, "a window of 25 ids exceeds the context of 24"),
        ("classifier", {"model.backbone": BACKBONE, "data.tokenizer": 300}, "a vocabulary of 256: set model.vocab="),
        ("classifier", {"model.backbone": BACKBONE, "model.classes": ["with", "x"]}, "has the label 'without', expected one of with, x"),
    ],
)
def test_what_cannot_be_is_refused(table: str, tmp_path: Path, model: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        api.train(model, table, tmp_path / "run", {"steps": 1, **options}, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_window_cuts_longer_texts(table: str, tmp_path: Path) -> None:
    run = trained(table, tmp_path / "run", {"steps": 1, "data.window": 8, "model.backbone.max_len": 8})
    with pytest.raises(ValueError, match="a text has 9 ids and the context is 8"):
        api.classify(api.load(run), ["x" * 9])
    (cut,), (whole,) = api.classify(api.load(run), ["x" * 9], truncate=True), api.classify(api.load(run), ["x" * 8])
    assert cut == whole


def test_another_start_is_refused_in_words(table: str, tmp_path: Path) -> None:
    run = trained(table, tmp_path / "run", {"steps": 1})
    with pytest.raises(ValueError, match=r"differ in model\.stack\.dim"):
        api.train(
            {"kind": "classifier", "backbone": {**BACKBONE, "stack": {**BACKBONE["stack"], "dim": 8}}},
            table,
            tmp_path / "other",
            OPTIONS,
            init=run,
            quiet=True,
        )
    with pytest.raises(ValueError, match="needs a causal model, got Classifier"):
        api.generate(api.load(run), "a")
    with pytest.raises(ValueError, match="expected a classifier, got LanguageModel"):
        api.classify(api.build(BACKBONE), ["a"])


def test_an_empty_text_is_refused(table: str, tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("text\tlabel\n" + "abc\twith\nabd\twithout\n" * 20 + "\twith\n")
    options = {"steps": 1, "data.fractions": [1, 0, 0]}
    with pytest.raises(ValueError, match="empty.tsv, line 42: a text of the training part is empty, .*: leave it out"):
        trained(str(tmp_path / "empty.tsv"), tmp_path / "run", options)
    assert not (tmp_path / "run").exists()
    model = api.load(trained(table, tmp_path / "started", {"steps": 1}))
    with pytest.raises(ValueError, match=r"texts\[1\]: a text is empty: leave it out"):
        api.classify(model, ["abc", ""])
    with pytest.raises(ValueError, match=r"a text is empty: leave it out"):
        api.embed(model, [""])


def test_what_is_told_of_memory_is_that_of_the_longest_texts(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the whole context nor the logits of the backbone count."""
    told = []
    for name, changes in (("short", {}), ("long", {"model.backbone.max_len": 8192}), ("wide", {"model.backbone.stack.dim": 32})):
        api.train({"kind": "classifier", "backbone": BACKBONE}, table, tmp_path / name, OPTIONS | {"steps": 1} | changes)
        found = re.search(r"about ([\d.]+) ([kM]B) of memory", capsys.readouterr().err)
        assert found
        told.append(float(found[1]) * {"kB": 1e3, "MB": 1e6}[found[2]])
    assert told[1] == told[0] < told[2]
    logits = training_memory(BACKBONE_CONFIG, 4, 24) - training_memory(BACKBONE_CONFIG, 4, 24, logits=False)
    assert logits > 4 * 24 * 256 * 4  # (B, T, V) in float32


def test_a_report_has_the_most_frequent_class_as_a_baseline(table: str, tmp_path: Path) -> None:
    run = trained(table, tmp_path / "run", {"steps": 1})
    labels = [line.split("\t")[1] for line in Path(table).read_text().splitlines()[1:]]
    found = api.info(run)["baseline"]
    assert found["name"] in {f"always {label}" for label in labels} and 0.3 < found["accuracy"] < 0.7
    assert "test: always" in (run / "report.html").read_text()


def test_many_classes_show_their_most_frequent_mistakes() -> None:
    few = confusion_table(["a", "b"], [0, 0, 1], [0, 1, 1], "test")
    assert (few.title, few.header, few.rows) == ("Confusion matrix", ["label", "a", "b"], [["a", "1", "1"], ["b", "0", "1"]])
    classes = [f"c{number}" for number in range(MOST_CLASSES + 1)]
    many = confusion_table(classes, [0, 0, 1, 1, 1], [0, 2, 2, 2, 1], "validation")
    assert many.title == "Most frequent mistakes" and many.rows == [["c1", "c2", "2"], ["c0", "c2", "1"]]


def test_the_report_shows_the_worst_mistakes_first(table: str, tmp_path: Path) -> None:
    run = trained(table, tmp_path / "run", {"steps": 2})
    objective = build_run(read(run))[1]
    model = api.load(run)
    objective.prepare(model)
    assert isinstance(objective, Classification)
    shown = objective.sections(model.eval())[1]
    assert isinstance(shown, Table) and shown.wrap and len(shown.rows) == 12
    found = {example.text.decode(): api.classify(model, [example.text])[0] for example in objective.data.test}
    wrong = [text for text, label, _ in shown.rows if found[text].label != label]
    chances = [found[text].probabilities[label] for text, label, _ in shown.rows]
    assert [text for text, _, _ in shown.rows][: len(wrong)] == wrong and chances[: len(wrong)] == sorted(chances[: len(wrong)])


def test_a_text_of_the_test_part_that_is_too_long_is_found_before_training(table: str, tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text(f"text\tlabel\n{'a' * 25}\twith\n")
    with pytest.raises(ValueError, match=r"test\.tsv, line 2: a text has 25 ids"):
        trained(table, tmp_path / "run", {"data.test": [str(tmp_path / "test.tsv")]})
    assert not (tmp_path / "run").exists()


def test_values_show_their_largest_errors(table: str, tmp_path: Path) -> None:
    lines = [line.split("\t")[0] for line in Path(table).read_text().splitlines()[1:]]
    values = tmp_path / "values.tsv"
    values.write_text("text\tlabel\n" + "".join(f"{text}\t{text.count('a')}\n" for text in lines))
    page = (trained(str(values), tmp_path / "run", {"model.problem_type": "regression"}) / "report.html").read_text()
    assert "<h2>Examples</h2>" in page and "the largest errors first" in page and "Confusion" not in page
