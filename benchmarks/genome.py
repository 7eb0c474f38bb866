"""What the first command of docs/dna.md gives on the genome of E. coli, as it is written there, beside a Markov model; and what naive Bayes
makes of the promoters that ``benchmarks/promoters.py`` classifies.

    make bench BENCHMARKS=genome

About four minutes on one core. The data sets are bio/genomes and bio/promoters.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.first_use import timed
from benchmarks.promoters import FOLDS, promoters
from benchmarks.recording import data_set, record, table
from subquad import api

PAGE = Path(__file__).parent.parent / "docs" / "dna.md"
ORDERS = range(0, 13, 2)
PSEUDOCOUNTS = (0.1, 0.5, 1, 4, 16)
VALID = (0.9, 0.95)  # the part of the genome that the default fractions take for validation


def main() -> None:
    """Measures and writes both blocks."""
    naive_bayes()
    torch.set_num_threads(1)
    genome = data_set("bio/genomes") / "ecoli_k12_mg1655.fa.gz"
    found = re.search(r"^```sh\n(subquad train .*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    command = " ".join(found[1].replace("\\\n", " ").split())
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        shutil.copy(genome, "ecoli.fa.gz")
        taken = timed(command)
        best = api.info("runs/ecoli")["best_validation"]
    order, bits = markov(gzip.decompress(genome.read_bytes()))
    rows = [
        [f"`{command}`", f"{best['bits_per_byte']:.3f}", f"{taken:.0f} s"],
        [f"Markov model of order {order}, the best of {ORDERS[0]} to {ORDERS[-1]}", f"{bits:.3f}", ""],
        ["each of four letters as likely", "2", ""],
    ]
    body = (
        "E. coli K-12, 4.64 million bases: nine tenths to train on, the next twentieth to validate. The model is scored on 64 windows of "
        "that twentieth, the Markov model, which counts what follows each context in the training part, on all of it. One thread, float32, "
        "one seed.\n\n"
    )
    record("genome", "A genome", "make bench BENCHMARKS=genome", body + table(["", "bits per base", "training"], rows))


def naive_bayes() -> None:
    """Writes the block of a simple baseline for the promoters: which base is at which position, each on its own."""
    from sklearn.naive_bayes import BernoulliNB

    rows, wrong = promoters(), 0
    bases = np.array([[base == known for base in text.lower() for known in "acgt"] for text, _ in rows])
    labels = np.array([label for _, label in rows])
    for fold in range(FOLDS):
        asked = np.arange(len(rows)) % FOLDS == fold
        model = BernoulliNB().fit(bases[~asked], labels[~asked])
        wrong += int((model.predict(bases[asked]) != labels[asked]).sum())
    body = (
        f"Bernoulli naive Bayes (scikit-learn) on the base at each of the 57 positions, in the {FOLDS} folds of the block on promoters: "
        f"accuracy {1 - wrong / len(rows):.3f}, {wrong} of {len(rows)} wrong."
    )
    record("promoters_baseline", "Promoters by naive Bayes", "make bench BENCHMARKS=genome", body)


def markov(fasta: bytes) -> tuple[int, float]:
    """The best order, and its bits per base on the validation part."""
    letters = b"".join(line.strip() for line in fasta.splitlines() if not line.startswith(b">")).upper()
    codes = np.full(256, -1, dtype=np.int64)
    codes[list(b"ACGT")] = range(4)
    bases = codes[np.frombuffer(letters, dtype=np.uint8)]
    bases = bases[bases >= 0]
    train, valid = bases[: int(VALID[0] * len(bases))], bases[int(VALID[0] * len(bases)) : int(VALID[1] * len(bases))]
    found = []
    for order in ORDERS:
        known, following = contexts(train, order)
        counts = np.bincount(known * 4 + following, minlength=4 ** (order + 1)).reshape(-1, 4)
        asked, answers = contexts(valid, order)
        for more in PSEUDOCOUNTS:
            probability = (counts[asked, answers] + more) / (counts[asked].sum(1) + 4 * more)
            found.append((float(-np.log2(probability).mean()), order))
    bits, order = min(found)
    return order, bits


def contexts(bases: npt.NDArray[np.int64], order: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The number of the ``order`` bases before each base, and that base."""
    number = np.zeros(len(bases) - order, dtype=np.int64)
    for place in range(order):
        number = number * 4 + bases[place : len(bases) - order + place]
    return number, bases[order:]


if __name__ == "__main__":
    main()
