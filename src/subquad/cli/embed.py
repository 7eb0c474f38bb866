"""``subquad embed``: one vector for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from subquad.cli.arguments import TEXT, option, parse_arguments, run_or_repository
from subquad.cli.output import print_json, replacing

ABOUT = """Writes one vector for each text, the rows of a NumPy array in float32.

Example:
  subquad embed runs/m2-bert reviews.jsonl -o reviews.npy

A .tsv, .csv or .jsonl is a table with a text in each line, in the column that --text names. Any other file, and stdin, is one text."""


@dataclass(frozen=True)
class Embed:
    """The arguments of ``subquad embed``."""

    run: Annotated[Positional[str], option("the run folder of an encoder, or a Hugging Face repo id", "RUN")]
    files: Annotated[Positional[tuple[str, ...]], option("tables, or files of one text each; - is stdin", "FILE...")]
    out: Annotated[str | None, TEXT, arg(aliases=("-o",), help="the array to write", metavar="OUT.npy", help_behavior_hint="")] = None
    text: Annotated[str | None, TEXT, option("the column of the text: a name, or a number from 0 on without a line of names")] = None
    table: Annotated[str | None, TEXT, option("tsv, csv or jsonl: what all files, and stdin, are whatever their names", "KIND")] = None
    truncate: Annotated[bool, option("read only the beginning of a text that exceeds the context")] = False
    json: Annotated[bool, option("names of the texts, in the order of the rows, as JSON")] = False
    device: Annotated[str, option("cpu, the default, cuda or cuda:1", "DEVICE")] = "cpu"


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments, embeds and writes."""
    request = parse_arguments(Embed, "embed", ABOUT, arguments)
    if not request.files:
        raise ValueError("name at least one file to embed, or - for stdin")
    if request.out is None:
        raise ValueError("--out is missing: name the array to write, such as -o texts.npy")
    run = run_or_repository(request.run)

    import numpy as np

    from subquad import api

    text = int(request.text) if request.text is not None and request.text.isdigit() else request.text
    columns = {name: value for name, value in {"text": text, "table": request.table}.items() if value is not None}
    examples = api.read_texts(request.files, run, columns)
    vectors = api.embed(api.load(run, request.device), [example.text for _, example in examples], truncate=request.truncate).float().numpy()
    with replacing(Path(request.out)) as file:
        np.save(file, vectors)
    if request.json:
        print_json({"run": request.run, "out": request.out, "shape": list(vectors.shape), "texts": [name for name, _ in examples]})
    else:
        print(request.out)
