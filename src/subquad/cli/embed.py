"""``subquad embed``: one vector for each text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subquad.cli.arguments import Parser, add_device, add_quiet, add_run, add_texts, given, run_or_repository
from subquad.cli.output import check_output, npy, print_json, replacing
from subquad.cli.texts import readable
from subquad.console import WorkProgress

ABOUT = """Writes one vector for each text: the rows of a NumPy array in float32.

Example:
  subquad embed runs/m2-bert reviews.jsonl -o reviews.npy

An encoder pools as it was trained to; of a causal model a text's vector is the mean of its last hidden vectors, or the last:
  subquad embed runs/books reviews.jsonl --pooling last -o reviews.npy

A .tsv, .csv, .jsonl or .parquet file is a table with one text per line, in the column that --text names.
Any other file, and stdin, is one text. Files, folders, globs and archives are read as training reads them."""


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad embed``."""
    add_run(parser)
    parser.add_argument("-o", "--out", metavar="OUT.npy", help="the array to write; - is stdout")
    parser.add_argument("--json", action="store_true", help="print the names of the texts, in the order of the rows, as JSON")
    parser.add_argument("--pooling", choices=["mean", "last"], help="of a causal model: the mean of its vectors (the default), or the last")
    add_quiet(parser)
    add_device(parser)
    add_texts(parser, "tables, files of one text each, or folders and archives of these")


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments, embeds and writes."""
    parser = Parser("embed", "RUN FILE... -o OUT.npy [options]", ABOUT)
    add_arguments(parser)
    request = parser.read(arguments)
    run = run_or_repository(request.run)
    if not request.files:
        raise ValueError("name at least one file to embed, or - for stdin")
    if request.out is None:
        raise ValueError("--out is missing: name the array to write, such as -o texts.npy")

    check_output(request.out)
    if Path(request.out).suffix not in ("", ".npy"):
        raise ValueError(f"the vectors are written as a NumPy array, got the name {request.out!r}: end it in .npy")
    if request.json and request.out == "-":
        raise ValueError("--json and --out - would both write to stdout: name a file for one of them")

    from subquad import api

    examples = api.read_texts(request.files, run, given(request, "text", "table"))
    model = api.load(run, request.device)
    examples, left_out = readable(model, examples, request.truncate, request.skip_bad)
    texts = [example.text for _, example in examples]
    with WorkProgress("texts", request.quiet) as progress:
        vectors = api.embed(model, texts, truncate=request.truncate, pooling=request.pooling, progress=progress).float().numpy()
    with replacing(request.out) as file:
        file.write(npy(vectors))
    if request.json:
        names = [name for name, _ in examples]
        print_json({"run": request.run, "out": request.out, "shape": list(vectors.shape), "texts": names, "left_out": left_out})
    elif request.out != "-":
        print(request.out)
