"""``subquad train``: a preset or a config, trained on files, into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction

from subquad.cli.arguments import TEXT, WHOLE, given, option, parse_arguments, parse_settings

ABOUT = """Trains a model on files of any kind: text, code, images, sound, binaries.

Example:
  subquad train megabyte-tiny --data books/ --out runs/books --steps 500 --set optim.lr=1e-3

An encoder, which learns to guess what is hidden:
  subquad train m2-bert-tiny --data books/ --out runs/encoder

One whose vectors find a query's passage, from a table of queries and passages:
  subquad train m2-bert-tiny --init runs/encoder --data pairs.tsv --out runs/search --set model.head=none

A classifier of texts, on a trained model, from a table of texts and labels; with --set model.target=number it estimates numbers:
  subquad train classifier --init runs/encoder --data reviews.tsv --out runs/reviews

Interrupted, it saves; this goes on where it stopped:
  subquad train --resume --out runs/books"""


@dataclass(frozen=True)
class Train:
    """The arguments of ``subquad train``."""

    model: Annotated[
        Positional[str],
        option("a preset (see subquad models), a train.yaml, or classifier; with --resume the run's own", "PRESET|CONFIG.yaml"),
    ] = ""
    data: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], option("files, folders, globs, .gz .xz .zip .tar; - is stdin", "PATH...")
    ] = ()
    out: Annotated[str, option("the run folder to write; must be new or empty without --resume", "RUN")] = ""
    init: Annotated[str | None, TEXT, option("start from the weights of another run (fine-tuning)", "RUN")] = None
    steps: Annotated[int | None, WHOLE, option("optimizer steps; with --resume the new total")] = None
    set: Annotated[UseAppendAction[tuple[str, ...]], option("a key of train.yaml, such as model.patch_size=4", "key=value")] = ()
    resume: Annotated[bool, option("go on from the last checkpoint in --out")] = False
    device: Annotated[str | None, TEXT, option("auto, cpu, cuda, cuda:1; auto takes a GPU where there is one", "DEVICE")] = None
    dtype: Annotated[str | None, TEXT, option("auto, float32 or bfloat16", "DTYPE")] = None
    compile: Annotated[bool, option("torch.compile the model; needs a C++ compiler on a CPU")] = False
    quiet: Annotated[bool, option("no progress")] = False


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and trains."""
    request = parse_arguments(Train, "train", ABOUT, arguments)
    if not request.out:
        raise ValueError("--out is missing: name the run folder to write, such as --out runs/first")
    options = _options(request)
    model = request.model or _config_of_run(request)
    data = [path for paths in request.data for path in paths] or None

    from subquad import api

    run = api.train(model, data, request.out, options, init=request.init, resume=request.resume, quiet=request.quiet)
    if not request.quiet:
        print(run)


def _config_of_run(request: Train) -> Path:
    config = Path(request.out, "train.yaml")
    if not request.resume:
        raise ValueError("name what to train: a preset (subquad models lists them) or a train.yaml")
    if not config.is_file():
        raise ValueError(f"there is no run to resume in {request.out!r}: expected a train.yaml there; leave --resume out to start one")
    return config


def _options(request: Train) -> dict[str, Any]:
    options = parse_settings(request.set)
    flags = given(request, ("steps", "device", "dtype")) | ({"compile": True} if request.compile else {})
    for name, value in flags.items():
        if name in options:
            raise ValueError(f"--{name} and --set {name} are both given: keep one")
        options[name] = value
    return options
