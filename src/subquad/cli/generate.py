"""``subquad generate``: the continuation of a prompt, byte by byte as it is generated."""

from __future__ import annotations

import codecs
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from subquad.cli.arguments import Parser, add_device, add_quiet, add_run, given, input_path, number, run_or_repository, whole_number
from subquad.cli.output import check_output, print_json, replacing
from subquad.console import WorkProgress
from subquad.format import visible

if TYPE_CHECKING:
    from torch import nn

ABOUT = """Continues a prompt. The continuation, without the prompt, goes to stdout as it is generated, or to a file.

Example:
  subquad generate runs/books --prompt "It was" --max-bytes 400 --temperature 0.8 --top-p 0.95 --seed 1

Several prompts, and several samples of each, in one batch:
  subquad generate runs/books --prompt "It was" --prompt "Once" --samples 3 --json"""

MAX_BYTES = 256  # without --max-bytes
SAMPLING = ("max_bytes", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad generate``."""
    add_run(parser)
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="the text to continue (default: empty); repeatable")
    parser.add_argument("--prompt-file", metavar="FILE", help="a file to continue; - is stdin")
    parser.add_argument("--out", metavar="FILE", help="write to this file; - is stdout, the default")
    parser.add_argument("--samples", type=whole_number, default=1, metavar="N", help="continuations of each prompt, seeds from --seed on")
    parser.add_argument("--json", action="store_true", help="print prompts and continuations as JSON")
    add_quiet(parser)
    add_device(parser)
    length = parser.add_argument_group("length")
    length.add_argument("--max-bytes", type=whole_number, metavar="N", help="bytes to generate at most (default: 256)")
    length.add_argument("--stop", action="append", default=[], metavar="TEXT", help="stop before this text; repeatable")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--temperature", type=number, metavar="X", help="lower is more conservative, 0 takes the most probable byte (default: 1)"
    )
    sampling.add_argument("--top-k", type=whole_number, metavar="K", help="sample from the K most probable bytes")
    sampling.add_argument("--top-p", type=number, metavar="P", help="sample from the fewest bytes whose probabilities sum to P")
    sampling.add_argument("--min-p", type=number, metavar="P", help="sample from bytes at least P times as probable as the most probable")
    sampling.add_argument("--repetition-penalty", type=number, metavar="X", help="above 1 makes bytes that have occurred less probable")
    sampling.add_argument("--utf8", action="store_true", help="sample only bytes that keep the text valid UTF-8")
    sampling.add_argument("--seed", type=whole_number, metavar="N", help="the same seed gives the same bytes (default: 0)")


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and generates."""
    parser = Parser("generate", "RUN [--prompt TEXT | --prompt-file FILE] [options]", ABOUT)
    add_arguments(parser)
    request = parser.read(arguments)
    run, prompts = run_or_repository(request.run), _prompts(request)
    if request.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {request.samples}")

    if request.out is not None:
        check_output(request.out)

    from subquad import api

    stop = [os.fsencode(text) for text in request.stop] or None
    model = api.load(run, request.device)
    options: dict[str, Any] = {"stop": stop, "utf8": request.utf8, **given(request, *SAMPLING)}
    if request.json or len(prompts) * request.samples > 1:
        _write_several(request, api, model, prompts, options)
        return
    pieces = api.stream(model, prompts[0], **options)
    if request.out in (None, "-"):
        if sys.stdout.isatty():
            _show(pieces)
        else:
            _write(sys.stdout.buffer, pieces)
    else:
        with replacing(request.out) as file, WorkProgress("bytes", request.quiet) as progress:
            _write(file, pieces, lambda done: progress(done, options.get("max_bytes", MAX_BYTES)))


def _write_several(request: Namespace, api: ModuleType, model: nn.Module, prompts: list[bytes], options: dict[str, Any]) -> None:
    """All continuations at once, as one batch: each below a line that names its prompt and seed, or as JSON."""
    first = options.pop("seed", 0)
    rows = [(prompt, first + sample) for prompt in prompts for sample in range(request.samples)]
    with WorkProgress("bytes", request.quiet) as progress:
        texts = api.generate(model, [prompt for prompt, _ in rows], seed=[seed for _, seed in rows], progress=progress, **options)
    if request.json:
        print_json([{"prompt": _text(prompt), "seed": seed, "text": _text(text)} for (prompt, seed), text in zip(rows, texts, strict=True)])
        return
    with replacing(request.out or "-") as file:
        for (prompt, seed), text in zip(rows, texts, strict=True):
            shown = visible(_text(text), "\n\t").encode() if file is sys.stdout.buffer and sys.stdout.isatty() else text
            file.write(f"=== {visible(_text(prompt), '')!r}, seed {seed}\n".encode() + shown + b"\n")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def _prompts(request: Namespace) -> list[bytes]:
    if request.prompt is not None and request.prompt_file is not None:
        raise ValueError("--prompt and --prompt-file are both given: keep one")
    if request.prompt_file == "-":
        return [sys.stdin.buffer.read()]
    if request.prompt_file is not None:
        return [input_path(request.prompt_file).read_bytes()]
    return [os.fsencode(prompt) for prompt in request.prompt or [""]]


def _show(pieces: Iterable[bytes]) -> None:
    """Writes text to a terminal, whole characters at a time; what could control it is written out."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for piece in pieces:
        print(visible(decoder.decode(piece), "\n\t"), end="", flush=True)
    print(visible(decoder.decode(b"", final=True)))


def _write(file: IO[bytes], pieces: Iterable[bytes], progress: Callable[[int], object] = lambda done: None) -> None:
    """Writes pieces as they come; ``progress`` is called with the bytes so far."""
    done = 0
    for piece in pieces:
        file.write(piece)
        file.flush()
        done += len(piece)
        progress(done)
