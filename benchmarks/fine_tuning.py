"""What pre-training gives a classifier, with the commands of the manual: of a language model at two rates and two batches, and of encoders.

    make bench BENCHMARKS=fine_tuning

About forty minutes on one core. The models read the data set text/pg_books; the classifiers read classify/sst2 and classify/trec_qc, as in
``first_use``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path

from benchmarks.first_use import TEXT, printed, sst2, tf_idf, timed, trec, write_table
from benchmarks.recording import data_set, record, table
from subquad.models import PRESETS

# As docs/classify.md and docs/m2-bert.md have them; a test compares.
FINE_TUNED = "subquad train classifier --init runs/books --data reviews.tsv --out runs/fine-tuned --steps 500 --set batch=32"
ENCODER = "subquad train m2-bert-tiny --data books/ --out runs/m2"
TUNED_ENCODER = "subquad train classifier --init runs/m2 --data reviews.tsv --out runs/reviews --steps 500 --set batch=32"

FRESH = "subquad train classifier --data reviews.tsv --out runs/fine-tuned --steps 500 --set batch=32 --set model.backbone=hyena-small"
PIECES = "--set data.tokenizer=4096 --set model.vocab=4096"
RATE = PRESETS["hyena-small"].default_lr  # of fresh weights
BODY = (
    "Accuracy after pre-training on 5.8 MB of books for 1,000 steps. SST-2: 6,920 sentences and 872 to classify; TREC: nine tenths of "
    "5,452 questions, and the others to classify. One thread, float32, one seed; a standard error is about 0.014.\n\n"
)
HEADER = ["fine-tuning", "SST-2", "TREC"]


def main() -> None:
    """Measures and writes the two blocks."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("books").symlink_to(data_set("text/pg_books"))
        language_model()
        encoders()


def language_model() -> None:
    """A hyena-small of bytes."""
    timed(TEXT)
    ways = {
        f"`{FINE_TUNED}`": FINE_TUNED,
        "the same at the rate of fresh weights": f"{FINE_TUNED} --set optim.lr={RATE:.4g}",
        "the same with `batch=8`": FINE_TUNED.replace("batch=32", "batch=8"),
        f"without pre-training, `{FRESH}`": FRESH,
    }
    rows = [[name, *accuracies(command, "runs/fine-tuned")] for name, command in ways.items()]
    rows.append(["TF-IDF with logistic regression", *(f"{tf_idf(*parts):.3f}" for parts in (sst2(), trec()))])
    write("fine_tuning", "Fine-tuning", f"Pre-training: `{TEXT}`. ", rows)


def encoders() -> None:
    """An m2-bert-tiny of bytes, and one of word pieces."""
    rows = []
    for name, options in {"of bytes": "", f"of word pieces, pre-trained with `{PIECES}`": f" {PIECES}"}.items():
        timed(ENCODER + options)
        rows.append([f"an encoder {name}", *accuracies(TUNED_ENCODER, "runs/reviews")])
    write("fine_tuning_encoders", "Fine-tuning an encoder", f"Pre-training: `{ENCODER}`; fine-tuning: `{TUNED_ENCODER}`. ", rows)


def accuracies(command: str, run: str) -> list[str]:
    """Those of a classifier on both data sets."""
    found: list[Mapping[str, float]] = []
    for known, asked in (sst2(), trec()):
        write_table(Path("reviews.tsv"), known)
        write_table(Path("more.tsv"), asked)
        timed(command)
        found.append(printed(f"subquad classify {run} more.tsv --json --truncate --device cpu --quiet")["metrics"])
    return [f"{metrics['accuracy']:.3f}" for metrics in found]


def write(name: str, title: str, before: str, rows: list[list[str]]) -> None:
    """A block of docs/results.md."""
    record(name, title, "make bench BENCHMARKS=fine_tuning", before + BODY + table(HEADER, rows))


if __name__ == "__main__":
    main()
