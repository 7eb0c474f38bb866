"""What pre-training gives a classifier, with the commands of README.md and docs/classify.md, at two rates and two batches.

    make bench BENCHMARKS=fine_tuning

About a quarter of an hour on one core. The language model reads the data set text/pg_books; the classifiers read classify/sst2 and
classify/trec_qc, as in ``first_use``.
"""

from __future__ import annotations

import tempfile
from contextlib import chdir
from pathlib import Path

from benchmarks.first_use import TEXT, printed, sst2, tf_idf, timed, trec, write_table
from benchmarks.recording import data_set, record, table

# As docs/classify.md has it; a test compares.
FINE_TUNED = "subquad train classifier --init runs/books --data reviews.tsv --out runs/fine-tuned --steps 500 --set batch=32"
FRESH = "subquad train classifier --data reviews.tsv --out runs/fine-tuned --steps 500 --set batch=32 --set model.backbone=hyena-small"
RATE = 0.5 / 96  # of a fresh hyena-small


def main() -> None:
    """Measures and writes the block."""
    ways = {
        f"`{FINE_TUNED}`": FINE_TUNED,
        "the same at the rate of fresh weights": f"{FINE_TUNED} --set optim.lr={RATE:.4g}",
        "the same with `batch=8`": FINE_TUNED.replace("batch=32", "batch=8"),
        f"without pre-training, `{FRESH}`": FRESH,
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("books").symlink_to(data_set("text/pg_books"))
        seconds = timed(TEXT)
        sets = {"SST-2": sst2(), "TREC": trec()}
        for name, command in ways.items():
            accuracies = []
            for known, asked in sets.values():
                write_table(Path("reviews.tsv"), known)
                write_table(Path("more.tsv"), asked)
                timed(command)
                found = printed("subquad classify runs/fine-tuned more.tsv --json --truncate --device cpu --quiet")
                accuracies.append(found["metrics"]["accuracy"])
            rows.append([name, *(f"{accuracy:.3f}" for accuracy in accuracies)])
        rows.append(["TF-IDF with logistic regression", *(f"{tf_idf(known, asked):.3f}" for known, asked in sets.values())])
    body = (
        f"Accuracy. Pre-training is `{TEXT}` on 5.8 MB of books, {seconds:.0f} s. SST-2: 6,920 sentences and 872 to classify; TREC: nine "
        "tenths of 5,452 questions, and the others to classify. One thread, float32, one seed; a standard error is about 0.014.\n\n"
    )
    record("fine_tuning", "Fine-tuning", "make bench BENCHMARKS=fine_tuning", body + table(["way", *sets], rows))


if __name__ == "__main__":
    main()
