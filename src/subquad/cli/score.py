"""``subquad score``: bits per byte of files, each and all together."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subquad.cli.arguments import Parser, add_device, add_quiet, add_run, add_skip_bad, column, given, run_or_repository, whole_number
from subquad.cli.output import check_output, npy, print_json, print_left_out, replacing
from subquad.console import WorkProgress
from subquad.report.tables import print_table

if TYPE_CHECKING:
    from subquad.api import Score

TASK = "synthetic:"
ABOUT = """Measures how well a model predicts files: bits per byte of each file and of all together. Lower is better.
For a text also the word perplexity, 2 ** (bits / words).

Example:
  subquad score runs/books chapter1.txt chapter2.txt --sliding --json

Files, folders, globs and archives are read as training read them: each file, member of an archive, record of FASTA (for
a run with data.format=fasta) or row of a table is scored. Each row of a table, its text in the column body:
  subquad score runs/books reviews.jsonl --text body

Each answer of a table after a question:
  subquad score runs/books answers.jsonl --text answer --prompt "Who wrote it? "

Accuracy on the answers of a synthetic task:
  subquad score runs/recall synthetic:recall,length=256,examples=500,seed=1"""


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad score``."""
    add_run(parser)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="files, folders, globs, .gz .xz .zst .zip .tar, or synthetic tasks; - is stdin"
    )
    parser.add_argument("--bits-out", metavar="OUT.npy", help="write the bits of every byte, files in order, as a NumPy array")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_quiet(parser)
    add_device(parser)
    reading = parser.add_argument_group("how files are read")
    reading.add_argument(
        "--format", metavar="FORM", help="raw, text (of tables), fasta or fasta-cased; by default as the run read its data"
    )
    reading.add_argument("--text", type=column, metavar="COLUMN", help="column of the texts of tables; sets --format text")
    add_skip_bad(reading, "files that the model cannot read (not UTF-8, for a model with a tokenizer)")
    reading.add_argument("--prompt", metavar="TEXT", help="read this text before each file, and do not count it: bits of an answer")
    windows = parser.add_argument_group("how files are cut into windows")
    windows.add_argument("--overlap", type=whole_number, metavar="N", help="read the last N bytes of a window again as context of the next")
    windows.add_argument("--sliding", action="store_true", help="overlap half a window (twice the time)")
    windows.add_argument(
        "--strided", action="store_true", help="a second pass, half a patch later; each byte from its better pass (twice the time)"
    )


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and scores."""
    parser = Parser("score", "RUN FILE... [options]", ABOUT)
    add_arguments(parser)
    request = parser.read(arguments)
    run = run_or_repository(request.run)
    if not request.files:
        raise ValueError("name at least one file to score, or - for stdin")
    if any(name.startswith(TASK) for name in request.files):
        _score_tasks(request, run)
    else:
        _score_files(request, run)


def _score_files(request: Namespace, run: str | Path) -> None:
    if request.bits_out is not None:
        check_output(request.bits_out)
        if request.bits_out == "-":
            raise ValueError("--bits-out - would write to stdout, where the table goes: name a file")

    from subquad import api

    form = request.format or ("text" if request.text is not None else None)
    options = {name: value for name, value in (("format", form), ("column", request.text)) if value is not None}
    documents = api.read_documents(request.files, run, options)
    model = api.load(run, request.device)
    passes = {"strided": request.strided, "sliding": request.sliding, **given(request, "overlap")}
    if request.prompt is not None:
        passes["prompt"] = os.fsencode(request.prompt)
    api.score(model, b"", **passes)  # wrong options are not the fault of a file
    scored: list[tuple[str, Score]] = []
    left_out: list[tuple[str, str]] = []
    size, before = sum(document.size for document in documents), 0
    with WorkProgress("bytes", request.quiet) as progress:
        for document in documents:

            def show(done: int, ids: int, before: int = before, bytes_: int = document.size) -> None:
                progress(before + bytes_ * done / ids, size)

            try:
                scored.append((document.name, api.score(model, document, **passes, progress=show)))
            except ValueError as error:
                if not request.skip_bad:
                    raise ValueError(f"{document.name}: {error}; --skip-bad leaves such files out") from None
                left_out.append((document.name, str(error)))
            before += document.size
    print_left_out(left_out)
    scores = [score for _, score in scored]
    if request.bits_out is not None:
        _write_bits(request.bits_out, scores)
    files = [_row(name, score) for name, score in scored]
    total = _row("all", api.total(scores))
    if request.json:
        print_json({"run": request.run, "files": files, "total": total, "left_out": dict(left_out)})
    else:
        rows = [*files, *([total] if len(files) > 1 else [])]
        print_table(["file", "bytes", "bits per byte", "word perplexity"], map(_cells, rows))


def _score_tasks(request: Namespace, run: str | Path) -> None:
    """Scores the answers of synthetic tasks; each of their examples is a window."""
    options = given(request, "overlap", "bits_out")
    if options or request.strided or request.sliding or not all(name.startswith(TASK) for name in request.files):
        raise ValueError(
            "tasks are evaluated on their answers: score them separately from files, without --overlap, --strided, --sliding, --bits-out"
        )

    from subquad import api

    model = api.load(run, request.device)
    answers = {}
    for name in request.files:
        with WorkProgress("examples", request.quiet) as progress:
            answers[name] = api.answer(model, name, progress)
    if request.json:
        tasks = [
            {"task": name, "answers": result.count, "accuracy": result.accuracy, "bits_per_answer": result.bits}
            for name, result in answers.items()
        ]
        print_json({"run": request.run, "tasks": tasks})
    else:
        rows = [[name, f"{result.count:,}", f"{result.accuracy:.1%}", f"{result.bits:.4f}"] for name, result in answers.items()]
        print_table(["task", "answers", "accuracy", "bits per answer"], rows)


def _row(name: str, score: Score) -> dict[str, Any]:
    perplexity = score.word_perplexity
    return {
        "file": name,
        "bytes": score.bytes,
        "bits_per_byte": score.bits_per_byte,
        # JSON has no infinity.
        "word_perplexity": perplexity if perplexity is None or math.isfinite(perplexity) else None,
    }


def _cells(row: Mapping[str, Any]) -> list[str]:
    rate, perplexity = row["bits_per_byte"], row["word_perplexity"]
    return [
        row["file"],
        f"{row['bytes']:,}",
        "-" if rate is None else f"{rate:.4f}",
        "-" if perplexity is None else f"{perplexity:.4g}",
    ]


def _write_bits(path: str, scores: Sequence[Score]) -> None:
    import numpy as np

    with replacing(path) as file:
        file.write(npy(np.concatenate([score.bits for score in scores])))
