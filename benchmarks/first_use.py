"""What the commands of the manual give, as they are written there, beside a simple baseline on the same data.

    make bench BENCHMARKS=first_use

About a quarter of an hour on one core. The questions and sentences are the data sets classify/trec_qc and classify/sst2; the Python
is the standard library's, of which files are held out by the hash of their paths.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shlex
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

from benchmarks.recording import data_set, record, table
from subquad.cli import main as subquad
from subquad.system import remove

# As README.md and docs/classify.md have them; a test compares.
TEXT = "subquad train hyena-small --data books/ --out runs/books --steps 1000"
TOKENS = "subquad train hyena-small --data books/ --out runs/tokens --steps 1000 --set data.tokenizer=2048 --set model.vocab=2048"
CLASSIFIER = (
    "subquad train classifier --data reviews.tsv --out runs/reviews --steps 500 --set batch=32 --set model.backbone=hyena-tiny "
    "--set data.tokenizer=4096 --set model.backbone.vocab=4096"
)
MACHINE = "--quiet --device cpu --set dtype=float32 --set threads=1"
HELD_OUT = 0.05  # of the Python files

Rows = Sequence[tuple[str, str]]


def main() -> None:
    """Measures and writes the block."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        train, test = python_files(Path("books"), Path("held-out"))
        packed = 8 * len(lzma.compress(test, preset=9 | lzma.PRESET_EXTREME)) / len(test)
        for command, run in ((TEXT, "runs/books"), (TOKENS, "runs/tokens")):
            seconds = timed(command)
            bits = printed(f"subquad score {run} held-out/ --json --device cpu")["total"]["bits_per_byte"]
            rows.append([f"held-out Python, `{command}`", f"{bits:.3f} bits per byte", f"{seconds:.0f} s", f"{packed:.3f}, `xz -9e`"])
        for name, (known, asked) in {"SST-2, 2 classes": sst2(), "TREC, 6 classes": trec()}.items():
            write_table(Path("reviews.tsv"), known)
            write_table(Path("more.tsv"), asked)
            seconds = timed(CLASSIFIER)
            accuracy = printed("subquad classify runs/reviews more.tsv --json --truncate --device cpu")["metrics"]["accuracy"]
            rows.append([f"{name}, `{CLASSIFIER}`", f"accuracy {accuracy:.3f}", f"{seconds:.0f} s", f"{tf_idf(known, asked):.3f}, TF-IDF"])
    body = (
        f"Trained on {len(train) / 1e6:.1f} MB of Python and scored on {len(test) / 1e6:.2f} MB of other files; SST-2: 6,920 sentences and "
        "872 to classify; TREC: nine tenths of 5,452 questions, and the others to classify. One thread, float32, one seed. TF-IDF: words "
        "and pairs of words, logistic regression (scikit-learn, C = 10).\n\n"
    )
    record(
        "first_use",
        "The commands of the manual",
        "make bench BENCHMARKS=first_use",
        body + table(["task", "result", "time", "baseline"], rows),
    )


def timed(command: str) -> float:
    """Seconds of a command of the manual, in a folder of runs where its own is new."""
    words = shlex.split(command)
    remove(Path(words[words.index("--out") + 1]))
    start = time.perf_counter()
    if subquad([*words[1:], *shlex.split(MACHINE)]) != 0:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - start


def printed(command: str) -> dict[str, dict[str, float]]:
    """What a command prints as JSON."""
    with redirect_stdout(StringIO()) as out:
        status = subquad(shlex.split(command)[1:])
    if status != 0:
        raise SystemExit(f"{command} failed")
    values: dict[str, dict[str, float]] = json.loads(out.getvalue())
    return values


def python_files(train: Path, test: Path) -> tuple[bytes, bytes]:
    """Copies the standard library, without its tests, into two folders; returns the contents of both."""
    library = Path(sysconfig.get_paths()["stdlib"])
    contents: dict[Path, list[bytes]] = {train: [], test: []}
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        content = path.read_bytes()
        if not content or {"test", "tests", "idle_test", "site-packages", "dist-packages"} & set(name.parts):
            continue
        drawn = int(hashlib.sha256(name.as_posix().encode()).hexdigest()[:8], 16) / 2**32
        folder = test if drawn < HELD_OUT else train
        (folder / name.parent).mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        contents[folder].append(content)
    return b"".join(contents[train]), b"".join(contents[test])


def sst2() -> tuple[Rows, Rows]:
    """Sentences and labels of both parts."""
    parts = []
    for name in ("train", "dev"):
        lines = (data_set("classify/sst2") / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        parts.append([(text, label) for text, label in (line.split("\t") for line in lines)])
    return parts[0], parts[1]


def trec() -> tuple[Rows, Rows]:
    """Questions with the first part of their labels; every tenth is asked."""
    lines = (data_set("classify/trec_qc") / "train.txt").read_text(encoding="latin-1").splitlines()
    rows = [(text, label.split(":")[0]) for label, text in (line.split(" ", 1) for line in lines)]
    return [row for number, row in enumerate(rows) if number % 10 != 9], rows[9::10]


def write_table(path: Path, rows: Rows) -> None:
    """A TSV with a header."""
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows]), encoding="utf-8")


def tf_idf(known: Rows, asked: Rows) -> float:
    """The accuracy of logistic regression on TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000))
    model.fit(*zip(*known, strict=True))
    return float(model.score(*zip(*asked, strict=True)))


if __name__ == "__main__":
    main()
