"""Fine-tuning a pre-trained encoder: classes and numbers, longer texts than it was trained on, and what is said of wrong inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subquad import api, manifest, run_folder
from subquad.models.classifier import Classifier
from subquad.models.encoder import Encoder
from tests.objectives.test_masked_lm import MODEL, STACK
from tests.training.logs import read_log

OPTIONS: dict[str, Any] = {"steps": 60, "batch": 16, "dtype": "float32", "device": "cpu", "optim.lr": 1e-2}
OPTIONS |= {"eval.every": 30, "save.every": 60, "data.fractions": [0.6, 0.2, 0.2]}


def made(path: Path, count: int, longest: int, number: bool) -> str:
    """Texts of two alphabets, whose label says which it was, or how large the share of one letter is."""
    draw = np.random.default_rng(0)
    lines = ["text\tlabel"]
    for _ in range(count):
        size, share = int(draw.integers(6, longest)), float(draw.random())
        letters = "".join(draw.choice(["a", "b"], size, p=[share, 1 - share]))
        found = letters.count("a") / size
        lines.append(f"{letters}\t{10 + 4 * found if number else 'many' if found > 0.5 else 'few'}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained encoder, as far as four steps go."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "text.txt").write_bytes(b"abbabaab" * 500)
    options = {"steps": 4, "batch": 4, "eval.every": 4, "save.every": 4, "dtype": "float32", "device": "cpu"}
    return api.train(MODEL, str(folder / "text.txt"), folder / "run", options, quiet=True)


def test_classes(start: Path, tmp_path: Path) -> None:
    table = made(tmp_path / "table.tsv", 160, 32, number=False)
    fresh = api.train("classifier", table, tmp_path / "fresh", OPTIONS | {"steps": 1, "optim.lr": 1e-9}, init=start, quiet=True)
    model, before = api.load(fresh), api.load(start)
    assert isinstance(model, Classifier) and isinstance(model.backbone, Encoder) and isinstance(before, Encoder)
    kept = {name: tensor for name, tensor in before.state_dict().items() if not name.startswith("head.")}
    assert kept.keys() == model.backbone.state_dict().keys()
    assert all(torch.allclose(tensor, kept[name], atol=1e-6) for name, tensor in model.backbone.state_dict().items())
    run = api.train("classifier", table, tmp_path / "run", OPTIONS, init=start, quiet=True)
    best = api.info(run)["best_validation"]
    assert best["accuracy"] > 0.85 and best["matthews"] > 0.7 and "cross_entropy" in best
    report = (run / "report.html").read_text()
    assert "nats per label" in report and "masked position" not in report
    labels = [found.label for found in api.classify(api.load(run), ["aaabaaab", b"bbbbabbb"])]
    assert labels == ["many", "few"]


def test_numbers(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = made(tmp_path / "table.tsv", 160, 32, number=True)
    run = api.train("classifier", table, tmp_path / "run", OPTIONS | {"model.problem_type": "regression"}, init=start, quiet=True)
    best = api.info(run)["best_validation"]
    assert best["pearson"] > 0.85 and best["squared_error"] < 0.4 and best["spearman"] > 0.8
    model = api.load(run)
    assert isinstance(model, Classifier) and 10 < model.config.target_mean < 14 and model.config.classes == ()
    few, many = api.regress(model, ["bbbbbbbbbbab", "aaaaaaaabaaa"])
    assert few < 12 < many
    assert "Pearson" in (run / "report.html").read_text() and "squared error" in (run / "report.html").read_text()
    assert set(json.loads((run / "data.json").read_text())["parts"]["test"]["labels"]) == {"least", "most"}
    with pytest.raises(ValueError, match="is a regression model and has no classes"):
        api.classify(model, ["ab"])
    from subquad.cli.classify import main

    main([str(run), table, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["metrics"]["pearson"] > 0.85 and set(printed["texts"][0]) == {"text", "value", "true"}
    main([str(run), table])
    assert "value" in capsys.readouterr().out.splitlines()[0]
    # What is resumed is the same run, whether it is named or not.
    named = {"model.problem_type": "regression"}
    api.train("classifier", None, tmp_path / "run", named, init=None, resume=True, quiet=True)
    again = api.train(None, None, tmp_path / "run", {"steps": 61}, resume=True, quiet=True)
    assert [record["kind"] for record in read_log(again) if record["step"] == 61][-1] == "end"
    manifest.check(again)


def test_the_weights_of_a_start_are_read_once(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backbone is known from its config."""
    paths, read_tensors = [], run_folder.read_tensors

    def counted(path: Path, expected: Any = None, device: Any = "cpu") -> dict[str, torch.Tensor]:
        paths.append(path.parent)
        return read_tensors(path, expected, device)

    monkeypatch.setattr(run_folder, "read_tensors", counted)
    table = made(tmp_path / "table.tsv", 40, 20, number=False)
    api.train("classifier", table, tmp_path / "run", OPTIONS | {"steps": 1}, init=start, quiet=True, report=False)
    assert paths.count(start) == 1


@pytest.mark.parametrize(("base", "way"), [(32, "continued"), (96, "stretched")])
def test_longer_texts_than_it_was_trained_on(start: Path, tmp_path: Path, base: int, way: str) -> None:
    """A longer context is asked for, and what becomes of the filters; no text is cut."""
    table = made(tmp_path / "table.tsv", 40, 96, number=False)
    longer = {"steps": 1, "optim.lr": 1e-9, "model.backbone.max_len": 96}
    with pytest.raises(ValueError, match=r"would be stretched to 96: set the mixer's filter\.filter_len"):
        api.train("classifier", table, tmp_path / "no", OPTIONS | longer, init=start, quiet=True)
    longer["model.backbone.stack.mixer.filter.filter_len"] = base
    run = api.train("classifier", table, tmp_path / "run", OPTIONS | longer, init=start, quiet=True)
    before = api.load(start)
    assert isinstance(before, Encoder)
    whole, model = api.extend_context(before, 96, "continued" if way == "continued" else "stretched"), api.load(run)
    assert isinstance(model, Classifier) and isinstance(model.backbone, Encoder)
    ids = torch.randint(97, 99, (2, 90))
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(ids), whole(ids, output="embedding"), rtol=0, atol=1e-4)


def test_what_cannot_be_is_refused(start: Path, tmp_path: Path) -> None:
    table = made(tmp_path / "table.tsv", 30, 32, number=False)
    with pytest.raises(ValueError, match="a text of the train part has the label '(few|many)', expected a number"):
        api.train("classifier", table, tmp_path / "run", OPTIONS | {"model.problem_type": "regression"}, init=start, quiet=True)
    same = tmp_path / "same.tsv"
    same.write_text("text\tlabel\n" + "ab\t3\n" * 20)
    with pytest.raises(ValueError, match="have the value 3: give labels that differ"):
        api.train("classifier", str(same), tmp_path / "run", OPTIONS | {"model.problem_type": "regression"}, init=start, quiet=True)
    other = {"kind": "classifier", "backbone": {**MODEL, "stack": {**STACK, "dim": 8}}}
    with pytest.raises(ValueError, match=r"differ in model\.stack\.dim"):
        api.train(other, table, tmp_path / "run", OPTIONS, init=start, quiet=True)
    long = tmp_path / "long.tsv"
    long.write_text("text\tlabel\n" + "ab\tx\n" * 20 + ("a" * 33 + "\ty\n") * 20)
    with pytest.raises(ValueError, match="a text has 33 ids and the context is 32: raise model.backbone.max_len"):
        api.train("classifier", str(long), tmp_path / "run", OPTIONS, init=start, quiet=True)


def test_another_kind_of_start_is_named(start: Path, tmp_path: Path) -> None:
    table = made(tmp_path / "table.tsv", 40, 20, number=False)
    for model, kinds in (
        ("transformer-tiny", "encoder there and language_model here"),
        ("bert-tiny", r"model\.init_std, .* and \d+ more"),
    ):
        with pytest.raises(ValueError, match=f"the two differ in .*{kinds}"):
            api.train(model, table, tmp_path / "run", {"steps": 1}, init=start, quiet=True)


def test_word_pieces_are_learnt_on_the_training_part(tmp_path: Path) -> None:
    table = made(tmp_path / "table.tsv", 40, 20, number=False)
    (tmp_path / "held.tsv").write_text("text\tlabel\nzzz\tmany\n")
    options = {"steps": 2, "batch": 4, "dtype": "float32", "device": "cpu", "data.tokenizer": 80, "data.valid": str(tmp_path / "held.tsv")}
    run = api.train({"kind": "classifier", "backbone": MODEL | {"vocab": 80}}, table, tmp_path / "run", options, quiet=True, report=False)
    pieces = json.loads((run / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"a", "b"} < set(pieces) and "z" not in pieces, "what is held out is not read"
    resumed = api.train(None, None, run, {"steps": 3}, resume=True, quiet=True, report=False)
    assert api.classify(api.load(resumed), ["abab"])[0].label in ("many", "few")


def test_a_start_brings_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some words of a text, and more words\n" * 200)
    values = MODEL | {"vocab": 300, "blank": "learned"}
    tokens = {"steps": 1, "dtype": "float32", "device": "cpu", "data.tokenizer": 300}
    start = api.train(values, str(tmp_path / "text.txt"), tmp_path / "tokens", tokens, quiet=True, report=False)
    table = made(tmp_path / "table.tsv", 40, 20, number=False)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("query\tpassage\n" + "".join(f"word {n}\ta text of words {n}\n" for n in range(20)))
    named = {"kind": "classifier", "backbone": values}
    cases: list[tuple[str | dict[str, Any], str, dict[str, Any]]] = [
        ("classifier", table, {}),
        (named, table, {}),
        (values, str(tmp_path / "text.txt"), {}),
        (values, str(pairs), {"model.head": "none"}),
    ]
    for number, (model, data, changes) in enumerate(cases):
        options = {"steps": 1, "batch": 4, "dtype": "float32", "device": "cpu"} | changes
        run = api.train(model, data, tmp_path / str(number), options, init=start, quiet=True, report=False)
        assert (run / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
