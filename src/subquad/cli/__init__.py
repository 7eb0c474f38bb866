"""The command line, ``subquad VERB``: one file here for each verb, imported, and torch with it, only when it runs.

Exit status: 0; 1 if the run failed, 2 if the request was wrong, 130 if interrupted, 128 + the number of another signal that ended a
training, 141 if the reader of stdout left.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

from subquad.errors import RunError

VERBS = {
    "train": "train a model on any files",
    "generate": "continue a prompt",
    "score": "bits per byte of files",
    "classify": "classes of texts, with probabilities",
    "compare": "compare models at equal budget",
    "info": "what a run is, how it was trained, its scores",
    "models": "presets, with parameters, FLOPs per byte and context length",
    "embed": "vectors of texts",
    "data": "public data sets by name: list, fetch, path",
    "convert": "convert an official checkpoint to a run folder",
}

MEMORY_ADVICE = (
    "train with a smaller batch, --set batch=..., or in parts, --set accumulate=... or --set checkpoint_activations=true; or take a "
    "smaller model or context (subquad models lists them)"
)
FAILED, WRONG, INTERRUPTED, READER_LEFT = 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; never lets an exception out."""
    _prepare_streams()
    try:
        status = _run_verb(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else _complain(str(end.code), FAILED)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)
        status = READER_LEFT
    except RunError as error:
        status = _complain(str(error), FAILED)
    except OSError as error:
        status = _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    except ValueError as error:
        status = _complain(str(error), WRONG)
    except Exception as error:
        if _is_out_of_memory(error):
            return _complain(f"out of memory ({str(error).splitlines()[0] if str(error) else 'MemoryError'}): {MEMORY_ADVICE}", FAILED)
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        status = _complain(f"internal error: {message} (set SUBQUAD_DEBUG=1 for the traceback)", FAILED)
    return status


def _run_verb(arguments: list[str]) -> int:
    if not arguments:
        print(_help(), file=sys.stderr)
        return WRONG
    verb, *rest = arguments
    if verb in ("-h", "--help", "help"):
        print(_help())
    elif verb == "--version":
        from subquad import __version__

        print(f"subquad {__version__}")
    elif verb not in VERBS:
        from subquad.config import suggest  # pydantic takes a tenth of a second, which --help need not pay

        raise ValueError(f"unknown verb {verb!r}: {suggest(verb, VERBS)}")
    else:
        importlib.import_module(f"subquad.cli.{verb}").main(rest)
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Of Python, of a GPU (a class that has this name in every backend), or of PyTorch on the CPU, which has no class for it."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(word in str(error) for word in words)


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {what}" for name, what in VERBS.items())
    return (
        "usage: subquad VERB ...\n\n"
        "Sequence models on bytes: train them on any files, then generate, score, embed and classify.\n\n"
        f"{verbs}\n\n"
        "subquad VERB --help shows the options of a verb, with an example; subquad --version the version."
    )


def _complain(message: str, status: int) -> int:
    if os.environ.get("SUBQUAD_DEBUG"):
        traceback.print_exc()
    from subquad.format import visible

    # A write to a full disk fails a second time when the interpreter flushes on its way out, with another traceback.
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
    try:
        print(f"subquad: {visible(' '.join(message.split()))}", file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)
    return status


def _prepare_streams() -> None:
    """Opens standard streams that are closed, so that no file takes their numbers, and lets the others write any character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence(stream: TextIO) -> None:
    from subquad.system import silence

    silence(stream)
