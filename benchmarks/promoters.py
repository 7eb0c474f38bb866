"""Classifying promoters, cross-validated: Hyena and a Transformer of the same size, from scratch and pre-trained on a genome.

    make bench BENCHMARKS=promoters

About a quarter of an hour on two cores. The 106 sequences and the genome are the data sets bio/promoters and bio/genomes.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.recording import data_set, record, table
from subquad import api
from subquad.inference.classify import Classified

STACK: dict[str, Any] = {"dim": 64, "depth": 2}
CONTEXT = 256
BACKBONES: dict[str, dict[str, Any]] = {
    "Transformer": {"init_std": 0.08, "stack": {**STACK, "mixer": {"kind": "attention", "heads": 2}}},
    "Hyena": {"init_std": 0.08, "stack": {**STACK, "mixer": {"kind": "hyena"}}},
}
MACHINE: dict[str, Any] = {"dtype": "float32", "threads": 1, "device": "cpu"}
PRETRAINING: dict[str, Any] = {
    **MACHINE,
    "steps": 400,
    "batch": 16,
    "data.format": "fasta",
    "data.tokenizer": "dna",
    "optim.lr": 3e-3,
    "eval.every": 200,
    "save.every": 400,
}
FINE_TUNING: dict[str, Any] = {
    **MACHINE,
    "steps": 150,
    "batch": 16,
    "data.tokenizer": "dna",
    "data.fractions": [1.0, 0.0, 0.0],
    "optim.lr": 1e-3,
    "model.dropout": 0.1,
    "eval.windows": 0,
    "save.every": 150,
}
FOLDS = 10


def promoters() -> list[tuple[str, str]]:
    """Sequences of 57 bases and their labels, shuffled."""
    rows = []
    for line in (data_set("bio/promoters") / "promoters.data").read_text().splitlines():
        sign, _, sequence = line.split(",")
        rows.append((sequence.strip(), "promoter" if sign == "+" else "other"))
    random.Random(0).shuffle(rows)
    return sorted(rows, key=lambda row: row[1])  # so that every tenth is a fold with its share of each class


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    """The path of a new table of the rows."""
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return str(path)


def cross_validated(backbone: dict[str, Any], start: Path | None, folder: Path, seed: int) -> dict[str, float]:
    """Figures over all sequences, each classified by a model that was trained on the other folds."""
    rows, results, labels = promoters(), list[Classified](), list[str]()
    for fold in range(FOLDS):
        train = written(folder / f"{fold}.tsv", [row for number, row in enumerate(rows) if number % FOLDS != fold])
        model = {"kind": "classifier", "backbone": backbone}
        run = api.train(model, train, folder / f"{fold}", {**FINE_TUNING, "seed": seed}, init=start, quiet=True, report=False)
        held_out = rows[fold::FOLDS]
        results += api.classify(api.load(run), [text for text, _ in held_out])
        labels += [label for _, label in held_out]
    found = api.classification_metrics(results, labels)
    assert found is not None
    return found


def main() -> None:
    """Pre-trains, cross-validates and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for title, values in BACKBONES.items():
            model = {"kind": "language_model", "vocab": 16, "max_len": CONTEXT, **values}
            genome = str(data_set("bio/genomes") / "ecoli_k12_mg1655.fa.gz")
            start = api.train(model, genome, Path(name, title), PRETRAINING, report=False)
            bits = api.info(start)["best_validation"]["bits_per_byte"]
            for words, init in (("from scratch", None), ("pre-trained", start)):
                found = []
                for seed in seeds:
                    with tempfile.TemporaryDirectory(dir=name) as folder:
                        found.append(cross_validated(model, init, Path(folder), seed))
                accuracies = [one["accuracy"] for one in found]
                mean = {figure: sum(one[figure] for one in found) / len(found) for figure in found[0]}
                wrong = ", ".join(str(round(106 * (1 - accuracy))) for accuracy in accuracies)
                rows.append([title, words, f"{bits:.3f}" if init else "", f"{mean['accuracy']:.3f}", wrong, f"{mean['matthews']:.3f}"])
                print(rows[-1], flush=True)
    read = PRETRAINING["steps"] * PRETRAINING["batch"] * CONTEXT
    body = (
        f"{FOLDS}-fold cross-validation of the 106 sequences, {len(seeds)} seeds. Both models are 64 x 2 with HyenaDNA's characters and a "
        f"context of {CONTEXT}, fine-tuned for {FINE_TUNING['steps']} steps; pre-training reads {read / 1e6:.1f} million bases "
        "of E. coli K-12, where 2 bits per base is chance. The promoters are from E. coli too, so the genome contains them, unlabelled.\n\n"
        + table(["backbone", "start", "genome, bits/base", "accuracy", "wrong of 106, by seed", "Matthews"], rows)
    )
    record("promoters", "Promoters", "make bench BENCHMARKS=promoters", body)


if __name__ == "__main__":
    main()
