"""All commands read what they are given as training does: folders, archives, packed files, FASTA records, rows of tables."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import subquad
from subquad import api
from subquad.cli import main
from tests.objectives.test_masked_lm import MODEL as ENCODER

MODEL = {
    "kind": "language_model",
    "max_len": 32,
    "stack": {"dim": 16, "depth": 1, "mixer": {"kind": "attention", "heads": 2}},
    "init_std": 0.1,
}
SHORT: dict[str, Any] = {"steps": 2, "batch": 2, "device": "cpu", "dtype": "float32"}
TEXT = b"It was the best of times, it was the worst of times. " * 20


def train(folder: Path, name: str, values: dict[str, Any], *arguments: str) -> Path:
    config, out = folder / f"{name}.yaml", folder / "runs" / name
    config.write_text(yaml.safe_dump(SHORT | values))
    assert main(["train", str(config), "--out", str(out), "--quiet", *arguments]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same text in several forms, and runs on bytes, on genomes, and of an encoder and a classifier."""
    folder = tmp_path_factory.mktemp("reading")
    data = folder / "data"
    (data / "deep").mkdir(parents=True)
    (data / "a.txt").write_bytes(TEXT)
    (data / "deep/b.txt").write_bytes(TEXT[:40])
    (folder / "a.gz").write_bytes(gzip.compress(TEXT))
    shutil.make_archive(str(folder / "packed"), "gztar", data)
    (folder / "g.fa").write_bytes(b">one of two\nACGT\nACGT\n>two\nGGGGTTTTACGTACGTACGTACGTAC\n" + b">three\n" + b"ACGT" * 60 + b"\n")
    rows = [
        {"body": text, "label": number % 2} for number, text in enumerate(["short", "x" * 100, "", *(f"text {row}" for row in range(9))])
    ]
    (folder / "acgt").write_bytes(b"ACGT" * 5000)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fits = [row for row in rows if 0 < len(str(row["body"])) < 30]
    (folder / "fits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in fits))
    train(folder, "books", {"model": MODEL}, "--data", str(data))
    dna = {"model": MODEL | {"vocab": 16}, "data": {"format": "fasta", "tokenizer": "dna"}}
    train(folder, "dna", dna, "--data", str(folder / "g.fa"))
    train(folder, "encoder", {"model": ENCODER}, "--data", str(data))
    labels = {"model": {"kind": "classifier", "backbone": ENCODER}, "objective": {"kind": "classification", "columns": {"text": "body"}}}
    train(folder, "labels", labels, "--data", str(folder / "fits.jsonl"), "--set", "data.fractions=[0.8,0.1,0.1]")
    return folder


def scores(folder: Path, capsys: pytest.CaptureFixture[str], run: str, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["score", str(folder / "runs" / run), *arguments, "--json", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    return {"total": figures["total"]} | {file["file"]: file for file in figures["files"]}


def test_a_folder_and_its_archive_are_scored_file_by_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    plain = scores(folder, capsys, "books", "data")
    packed = scores(folder, capsys, "books", "packed.tar.gz")
    assert list(plain) == ["total", "data/a.txt", "data/deep/b.txt"]
    assert list(packed) == ["total", "packed.tar.gz/a.txt", "packed.tar.gz/deep/b.txt"]
    assert plain["total"] == packed["total"] and plain["total"]["bytes"] == len(TEXT) + 40
    assert list(scores(folder, capsys, "books", "data/*.txt", "data/a.txt")) == ["total", "data/a.txt"]
    single = scores(folder, capsys, "books", "a.gz")["a.gz"]
    assert single["bits_per_byte"] == plain["data/a.txt"]["bits_per_byte"] and single["bytes"] == len(TEXT)
    assert subquad.score(subquad.load("runs/books"), "a.gz").bits_per_byte == pytest.approx(single["bits_per_byte"], rel=1e-12)


def test_fasta_is_scored_record_by_record_by_a_run_on_fasta(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(folder, capsys, "dna", str(folder / "g.fa"))
    sizes = {name.rpartition("/")[2]: file["bytes"] for name, file in found.items() if name != "total"}
    assert sizes == {"one": 8, "two": 26, "three": 240}
    as_it_lies = scores(folder, capsys, "dna", str(folder / "g.fa"), "--format", "raw")
    assert as_it_lies["total"]["bytes"] == (folder / "g.fa").stat().st_size
    assert main(["score", str(folder / "runs/dna"), str(folder / "data/a.txt")]) == 2
    assert "is not FASTA" in (error := capsys.readouterr().err) and "--format raw" in error


def test_fasta_under_a_run_on_letters_is_never_read_with_its_headers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters").write_bytes(b"ACGT" * 100)
    values = {"model": MODEL | {"vocab": 16}, "data": {"tokenizer": "dna"}}
    train(folder, "letters", values, "--data", str(tmp_path / "letters"))
    found = scores(folder, capsys, "letters", str(folder / "g.fa"), str(tmp_path / "letters"))
    assert [file["bytes"] for file in found.values()][1:] == [8, 240, 26, 400]
    headers = ["train", str(folder / "letters.yaml"), "--data", str(folder / "g.fa"), "--out", str(tmp_path / "headers")]
    assert main(headers) == 2
    assert "g.fa is FASTA, whose headers and line breaks are not bases: set data.format=fasta" in capsys.readouterr().err


def test_text_is_refused_by_every_verb_of_a_run_on_letters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dna, books = str(folder / "runs/dna"), str(folder / "data/a.txt")
    train_on_text = ["train", str(folder / "dna.yaml"), "--data", books, "--out", str(folder / "runs/text"), "--set", "data.format=raw"]
    for command in (train_on_text, ["score", dna, books, "--format", "raw"], ["generate", dna, "--prompt", "Hello world"]):
        assert main([*command, "--device", "cpu"]) == 2, command
        assert "is not in the characters ACGTN that this tokenizer reads" in capsys.readouterr().err
    assert main(["embed", dna, books, "--table", "tsv", "--text", "0", "-o", "-", "--device", "cpu"]) == 2
    assert not (folder / "runs/text").exists()


def test_a_column_without_tables_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", str(folder / "books.yaml"), "--data", str(folder / "rows.jsonl"), "--out", str(folder / "runs/column")]
    assert main([*command, "--set", "data.column=body"]) == 2
    assert "data: column=body is for the texts of tables: set data.format=text too, or leave it out" in capsys.readouterr().err


def test_a_table_without_rows_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.tsv").write_text("body\tlabel\n")
    for verb, run, more in (("classify", "labels", []), ("embed", "encoder", ["--text", "body", "-o", "-"])):
        assert main([verb, str(folder / "runs" / run), str(tmp_path / "none.tsv"), *more, "--device", "cpu"]) == 2
        assert "none.tsv has no texts: expected lines below its header" in capsys.readouterr().err


def test_rows_of_a_table_are_scored(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = scores(folder, capsys, "books", "rows.jsonl", "--text", "body")
    assert [(name, file["bytes"]) for name, file in found.items()][1:4] == [("rows.jsonl:1", 5), ("rows.jsonl:2", 100), ("rows.jsonl:4", 6)]
    trained = train(folder, "rows", {"model": MODEL, "data": {"format": "text", "column": "body"}}, "--data", "rows.jsonl")
    assert json.loads((trained / "data.json").read_text())["documents"] == 11
    assert scores(folder, capsys, "rows", "rows.jsonl").keys() == found.keys()


def test_one_bad_text_among_many_is_named_and_left_out_where_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for verb, more in (("classify", []), ("embed", ["--text", "body", "-o", "vectors.npy"])):
        command = [verb, "runs/labels" if verb == "classify" else "runs/encoder", "rows.jsonl", *more, "--device", "cpu"]
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert out == "" and "rows.jsonl, line 2: a text has 100 ids and the context is 32" in err and "(1 more such texts)" in err
        assert "--skip-bad leaves such texts out" in err
        assert main([*command, "--skip-bad", "--json"]) == 0
        out, err = capsys.readouterr()
        assert "2 left out:" in err and "rows.jsonl:2: " in err and "rows.jsonl:3: a text is empty" in err
        answer = json.loads(out)
        assert len(answer["texts"]) == 10 and list(answer["left_out"]) == ["rows.jsonl:2", "rows.jsonl:3"]
        assert main([*command, "--skip-bad", "--json", "--truncate"]) == 0
        assert list(json.loads(capsys.readouterr().out)["left_out"]) == ["rows.jsonl:3"]
    assert np.load("vectors.npy").shape == (11, 16)


def test_a_run_inside_of_its_data_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes(TEXT)
    Path("config.yaml").write_text(yaml.safe_dump(SHORT | {"model": MODEL}))
    for run in ("runs/one", "runs/two"):
        assert main(["train", "config.yaml", "--data", ".", "--out", run, "--quiet"]) == 0
        assert main(["train", "--resume", "--out", run, "--steps", "3", "--quiet"]) == 0
        record = json.loads(Path(run, "data.json").read_text())
        assert record["documents"] == 2 and record["bytes"] == len(TEXT) + Path("config.yaml").stat().st_size
    assert record["skipped"] == [["runs/one", "a run folder"]]
    assert main(["score", "runs/two", ".", "--device", "cpu"]) == 0
    assert caplog.messages[-1] == "2 left out of the data: runs/two (a run folder), runs/one (a run folder)"


def test_a_damaged_archive_is_an_error_of_every_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder / "data", "data")
    (tmp_path / "cut.tar").write_bytes(buffer.getvalue()[:700])
    for command in (["score", "runs/books"], ["classify", "runs/labels"], ["embed", "runs/encoder", "-o", str(tmp_path / "x.npy")]):
        verb, run, *rest = command
        assert main([verb, str(folder / run), str(tmp_path / "cut.tar"), *rest]) == 2
        assert "cannot unpack" in capsys.readouterr().err


def test_a_column_of_no_table_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(folder / "runs/books"), str(folder / "data/a.txt"), "--text", "body", "--device", "cpu"]) == 2
    assert "the column 'body' is for tables, and " in (said := capsys.readouterr().err) and "a.txt is none" in said


def test_vectors_are_written_under_the_name_of_an_array(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(folder / "runs/encoder"), str(folder / "data/a.txt"), "-o", str(tmp_path / "x.csv")]) == 2
    assert "x.csv': end it in .npy" in capsys.readouterr().err and not (tmp_path / "x.csv").exists()


def test_a_run_says_what_it_started_from(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = str(folder / "runs/books"), tmp_path / "more"
    assert main(["train", str(folder / "books.yaml"), "--data", str(folder / "data"), "--init", start, "--out", str(out)]) == 0
    assert f"from the weights of {start}" in " ".join(capsys.readouterr().err.split())
    assert "Initial weights" in (out / "report.html").read_text()


def test_text_among_sequences_is_refused_before_the_training(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever the split puts it."""
    for number in range(12):
        (tmp_path / f"{number:02}.seq").write_bytes(b"ACGT" * 50)
    (tmp_path / "README").write_bytes(TEXT[:200])
    config, split = str(folder / "letters.yaml"), ["--set", "data.split=document", "--set", "data.fractions=[0.4,0.3,0.3]"]
    for seed in range(4):
        assert main(["train", config, "--data", str(tmp_path), "--out", str(folder / "mixed"), *split, "--set", f"seed={seed}"]) == 2
        assert "README is not in the characters ACGTN" in capsys.readouterr().err
        assert not (folder / "mixed").exists()


def test_dna_is_compared_with_a_markov_model(folder: Path) -> None:
    values = {"model": MODEL | {"vocab": 16}, "data": {"tokenizer": "dna"}}
    found = api.info(train(folder, "genome", values, "--data", str(folder / "acgt")))["baseline"]
    assert found["name"].startswith("a Markov model of order ") and found["bits_per_byte"] < 0.1
