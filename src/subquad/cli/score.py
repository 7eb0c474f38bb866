"""``subquad score``: bits per byte of files, each and all together."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from subquad.cli.arguments import TEXT, WHOLE, given, input_path, option, parse_arguments, run_or_repository
from subquad.cli.output import print_columns, print_json, replacing

if TYPE_CHECKING:
    from subquad.api import Score as Result

TASK = "synthetic:"
ABOUT = """Measures how well a model predicts files: bits per byte of each file and of all together, lower is better.

Example:
  subquad score runs/books chapter1.txt chapter2.txt --sliding --json

A text's word perplexity, 2 ** (bits / words), stands beside.

A synthetic task in place of files is judged by its answers:
  subquad score runs/recall synthetic:recall,length=256,examples=500,seed=1"""


@dataclass(frozen=True)
class Score:
    """The arguments of ``subquad score``."""

    run: Annotated[Positional[str], option("a run folder, or a Hugging Face repo id", "RUN")]
    files: Annotated[Positional[tuple[str, ...]], option("files to score; - is stdin", "FILE...")]
    overlap: Annotated[int | None, WHOLE, option("read the last N bytes of a window again as context of the next")] = None
    strided: Annotated[bool, option("a second pass half a patch further on; each byte from its better pass (twice the time)")] = False
    sliding: Annotated[bool, option("overlap half a window (twice the time)")] = False
    bits_out: Annotated[str | None, TEXT, option("write the bits of every byte, files in order, as a NumPy array", "F.npy")] = None
    json: Annotated[bool, option("figures as JSON")] = False
    device: Annotated[str, option("cpu, the default, cuda or cuda:1", "DEVICE")] = "cpu"


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and scores."""
    request = parse_arguments(Score, "score", ABOUT, arguments)
    if not request.files:
        raise ValueError("name at least one file to score, or - for stdin")
    run = run_or_repository(request.run)
    if any(name.startswith(TASK) for name in request.files):
        _answers(request, run)
        return
    sources = [name if name == "-" else input_path(name) for name in request.files]

    from subquad import api

    model = api.load(run, request.device)
    passes = {"strided": request.strided, "sliding": request.sliding, **given(request, ("overlap",))}
    results = []
    for source in sources:
        results.append(api.score(model, _data(source), **passes))
    if request.bits_out is not None:
        _write_bits(Path(request.bits_out), results)
    files = [_figures(name, result) for name, result in zip(request.files, results, strict=True)]
    _print(request, files, _figures("all", api.total(results)))


def _answers(request: Score, run: str | Path) -> None:
    """Judges the run on tasks, whose examples are windows of their own."""
    passes = given(request, ("overlap", "bits_out"))
    if passes or request.strided or request.sliding or not all(name.startswith(TASK) for name in request.files):
        raise ValueError(
            "tasks are judged by their answers: score them apart from files, without --overlap, --strided, --sliding, --bits-out"
        )

    from subquad import api

    model = api.load(run, request.device)
    found = {name: api.answer(model, name) for name in request.files}
    if request.json:
        tasks = [{"task": name, "answers": one.count, "accuracy": one.accuracy, "bits_per_answer": one.bits} for name, one in found.items()]
        print_json({"run": request.run, "tasks": tasks})
        return
    rows = [[name, f"{one.count:,}", f"{one.accuracy:.1%}", f"{one.bits:.4f}"] for name, one in found.items()]
    print_columns([["task", "answers", "right", "bits per answer"], *rows])


def _data(source: str | Path) -> bytes | Path:
    if isinstance(source, str):
        return sys.stdin.buffer.read()
    return source if source.is_file() else source.read_bytes()  # a pipe can be read only once


def _figures(name: str, result: Result) -> dict[str, Any]:
    perplexity = result.word_perplexity
    return {
        "file": name,
        "bytes": result.bytes,
        "bits_per_byte": result.bits_per_byte,
        # JSON has no infinity.
        "word_perplexity": perplexity if perplexity is None or math.isfinite(perplexity) else None,
    }


def _print(request: Score, files: list[dict[str, Any]], total: dict[str, Any]) -> None:
    if request.json:
        print_json({"run": request.run, "files": files, "total": total})
        return
    rows = [["file", "bytes", "bits per byte", "word perplexity"]]
    for figures in [*files, *([total] if len(files) > 1 else [])]:
        rate, perplexity = figures["bits_per_byte"], figures["word_perplexity"]
        rows.append(
            [
                figures["file"],
                f"{figures['bytes']:,}",
                "-" if rate is None else f"{rate:.4f}",
                "-" if perplexity is None else f"{perplexity:.4g}",
            ]
        )
    print_columns(rows)


def _write_bits(path: Path, results: Sequence[Result]) -> None:
    import numpy as np

    with replacing(path) as file:
        np.save(file, np.concatenate([result.bits for result in results]))
