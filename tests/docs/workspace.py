"""A folder with every file that the manual names, small, and the runs that its pages take for granted."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from subquad.cli import main
from tests.docs.pages import ROOT
from tests.interop.test_convert import LAYER, M2_BERT, MODEL, lightning
from tests.interop.test_convert import official_state as hyena_state
from tests.interop.test_m2_convert import official_state as m2_state

SENTENCES = ["a stirring , funny film", "a dull and lifeless plot", "warm , witty and wise", "it never comes to life"]

# What the pages take as trained before: the command that makes it.
RUNS = {
    "runs/books": "train megabyte-tiny --data books/ --out runs/books",
    "runs/m2": "train m2-bert-tiny --data books/ --out runs/m2",
    "runs/m2-bert": "train m2-bert-tiny --data books/ --out runs/m2-bert",
    "runs/dna": "convert hyenadna/ --from hyena-dna --out runs/dna",
    "runs/short": "train hyena-small --data books/ --out runs/short --set model.stack.mixer.filter.filter_len=1024",
    "runs/search": "train m2-bert-tiny --data pairs.tsv --out runs/search --set model.head=none",
    "runs/reviews": "train classifier --set model.backbone=transformer-tiny --data reviews.tsv --out runs/reviews",
    "runs/similarity": "train classifier --set model.backbone=m2-bert-tiny --data pairs.tsv --out runs/similarity"
    " --set model.problem_type=regression",
}


def make_workspace(folder: Path) -> None:
    """Writes the files into ``folder``, which is also the home folder of the pages."""
    text = (ROOT / "examples/data/tinyshakespeare.txt").read_bytes()
    for place in (folder / "books", folder / "notes"):
        place.mkdir()
        for number in range(8):
            (place / f"{number}.txt").write_bytes(text[number * 40_000 : (number + 1) * 40_000])
    with tarfile.open(folder / "notes.tar.gz", "w:gz") as archive:
        archive.add(folder / "notes", "notes")
    for number, name in enumerate(["chapter1.txt", "chapter2.txt", "letter.txt", "notes.txt", "more.txt"]):
        (folder / name).write_bytes(text[number * 1000 : number * 1000 + 400])
    shutil.copytree(ROOT / "src/subquad/data", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    _write_tables(folder)
    _write_genome(folder)
    _write_official(folder)
    np.save(folder / "photos64.npy", np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))


def make_run(name: str) -> None:
    """Trains the run that a page takes for granted, in the current folder, where it is not there yet."""
    if not Path(name).exists():
        command = RUNS[name].split()
        assert main([*command, *(["--quiet"] if command[0] == "train" else [])]) == 0


def _write_tables(folder: Path) -> None:
    rows = [(SENTENCES[n % 4], "pos" if n % 2 == 0 else "neg") for n in range(80)]
    _table(folder / "reviews.tsv", ("text", "label"), rows)
    _table(folder / "more.tsv", ("text", "label"), rows[:6])
    _table(folder / "sst2-dev.tsv", ("text", "label"), [(text, str(n % 2)) for n, (text, _) in enumerate(rows[:6])])
    pairs = [(f"what is number {n}", f"number {n} is {n * n} squared", f"{n % 5}.5") for n in range(80)]
    _table(folder / "pairs.tsv", ("query", "passage", "label", "text"), [(*row, row[0]) for row in pairs])
    for name in ("reviews", "documents", "texts"):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows[:8]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "reviews.csv").write_text("body,stars\n" + "".join(f'"{text * 60}",{n}\n' for n, (text, _) in enumerate(rows)), "utf-8")
    (folder / "pile").mkdir()
    rows_of_pile = [json.dumps({"text": f"document {number} of a pile, {SENTENCES[number % 4]}" * 40}) for number in range(40)]
    (folder / "pile/00.jsonl.zst").write_bytes(zstandard.compress("\n".join(rows_of_pile).encode()))


def _write_genome(folder: Path) -> None:
    letters = random.Random(0)
    records = [f">record{n} a genome\n" + "".join(letters.choices("ACGT", k=6000)) + "\n" for n in range(4)]
    (folder / "ecoli.fa.gz").write_bytes(gzip.compress("".join(records).encode()))
    rows = [("".join(letters.choices("ACGT", k=57)), "promoter" if n % 2 else "other") for n in range(40)]
    _table(folder / "promoters.tsv", ("text", "label"), rows)
    _table(folder / "unseen.tsv", ("text", "label"), rows[:6])


def _table(path: Path, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in [head, *rows]), encoding="utf-8")


def _write_official(folder: Path) -> None:
    """Checkpoints as the official code writes them, with random weights, and their tokenizers."""
    hyena = MODEL | {"vocab_size": 256}
    torch.save(lightning(hyena_state("hyena-lm", hyena)), folder / "weights.ckpt")
    _write_json(folder / "config.json", hyena)
    byte_level = Tokenizer(models.BPE({letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    byte_level.pre_tokenizer, byte_level.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    byte_level.save(str(folder / "tokenizer.json"))

    (folder / "hyenadna").mkdir()
    dna = MODEL | {"vocab_size": 12, "layer": LAYER | {"l_max": 64}}
    torch.save(hyena_state("hyena-dna", dna), folder / "hyenadna/weights.ckpt")
    _write_json(folder / "hyenadna/config.json", dna)

    (folder / "bert").mkdir()
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"])}
    word_piece = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    word_piece.save(str(folder / "bert/tokenizer.json"))
    _write_json(folder / "bert/config.json", M2_BERT)
    torch.save(m2_state("m2-bert-embedding"), folder / "m2.pt")
    torch.save(m2_state("m2-bert"), folder / "sst2.pt")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")
