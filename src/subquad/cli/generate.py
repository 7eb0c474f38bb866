"""``subquad generate``: the continuation of a prompt, byte by byte as it comes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from tyro.conf import Positional, UseAppendAction

from subquad.cli.arguments import NUMBER, TEXT, WHOLE, given, input_path, option, parse_arguments, run_or_repository
from subquad.cli.output import replacing

ABOUT = """Continues a prompt. The continuation alone, without the prompt, goes to stdout as it comes, or to a file.

Example:
  subquad generate runs/books --prompt "It was" --max-bytes 400 --temperature 0.8 --top-p 0.95 --seed 1"""

OPTIONS = ("max_bytes", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


@dataclass(frozen=True)
class Generate:
    """The arguments of ``subquad generate``."""

    run: Annotated[Positional[str], option("a run folder, or a Hugging Face repo id", "RUN")]
    prompt: Annotated[str | None, TEXT, option("what to continue; nothing by default")] = None
    prompt_file: Annotated[str | None, TEXT, option("a file to continue; - is stdin", "F")] = None
    max_bytes: Annotated[int | None, WHOLE, option("bytes to write at most (256)")] = None
    temperature: Annotated[float | None, NUMBER, option("0 takes the likeliest byte; 1, the default, draws as the model says")] = None
    top_k: Annotated[int | None, WHOLE, option("draw from the k likeliest bytes")] = None
    top_p: Annotated[float | None, NUMBER, option("draw from the fewest bytes that hold this share of the probability")] = None
    min_p: Annotated[float | None, NUMBER, option("draw from bytes at least this fraction as likely as the likeliest")] = None
    repetition_penalty: Annotated[float | None, NUMBER, option("above 1 makes bytes already seen less likely")] = None
    stop: Annotated[UseAppendAction[tuple[str, ...]], option("end before this text; may be given again", "TEXT")] = ()
    seed: Annotated[int | None, WHOLE, option("the same seed draws the same bytes (0)")] = None
    utf8: Annotated[bool, option("draw only bytes that keep the text valid UTF-8")] = False
    out: Annotated[str | None, TEXT, option("write to this file; - is stdout", "F")] = None
    device: Annotated[str, option("cpu, the default, cuda or cuda:1", "DEVICE")] = "cpu"


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and generates."""
    request = parse_arguments(Generate, "generate", ABOUT, arguments)
    run, prompt = run_or_repository(request.run), _prompt(request)

    from subquad import api

    options = {"stop": [os.fsencode(text) for text in request.stop] or None, "utf8": request.utf8, **given(request, OPTIONS)}
    model = api.load(run, request.device)
    pieces = api.stream(model, prompt, **options)
    if request.out in (None, "-"):
        _write(sys.stdout.buffer, pieces)
        if sys.stdout.isatty():
            print()
    else:
        with replacing(Path(str(request.out))) as file:
            _write(file, pieces)


def _prompt(request: Generate) -> bytes:
    if request.prompt is not None and request.prompt_file is not None:
        raise ValueError("--prompt and --prompt-file are both given: keep one")
    if request.prompt_file == "-":
        return sys.stdin.buffer.read()
    if request.prompt_file is not None:
        return input_path(request.prompt_file).read_bytes()
    return os.fsencode(request.prompt or "")


def _write(file: IO[bytes], pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        file.write(piece)
        file.flush()
