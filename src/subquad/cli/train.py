"""``subquad train``: a preset or a config, trained on files, into a run folder."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from subquad.cli.arguments import Parser, add_quiet, given, run_or_repository, whole_number

ABOUT = r"""Trains a model on any files: text, code, images, sound, binaries.

Example:
  subquad train hyena-small --data books/ --out runs/books --steps 1000

On the texts of a table, one document a row, in its column "text" or another (data.column):
  subquad train hyena-small --data pile.jsonl.zst --set data.format=text --out runs/pile

Pre-train an encoder with masked language modelling:
  subquad train m2-bert-tiny --data books/ --out runs/encoder

Train one for retrieval, with contrastive learning on a table of queries and passages (docs/retrieval.md makes one of any documents):
  subquad train m2-bert-tiny --data crops.jsonl --out runs/search --steps 400 --set batch=128 --set optim.lr=2e-3 \
    --set model.head=none --set model.stack.dim=256 --set model.stack.depth=1 --set model.positions=none \
    --set data.tokenizer=8192 --set model.vocab=8192 --set data.window=56

Train a classifier on a table of texts and labels (for regression: --set model.problem_type=regression):
  subquad train classifier --data reviews.tsv --out runs/reviews --steps 500 --set batch=32 \
    --set model.backbone=hyena-tiny --set data.tokenizer=4096 --set model.backbone.vocab=4096

Or fine-tune one on a run that has read more text:
  subquad train classifier --init runs/books --data reviews.tsv --out runs/reviews --steps 500 --set batch=32

Resume a run that was interrupted (Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save it; the exit status is then 128 + the signal):
  subquad train --resume --out runs/books"""

HINTS = {
    "--model": "name the preset or config first, as in subquad train megabyte-tiny --data ...",
    "--preset": "name the preset first, as in subquad train megabyte-tiny --data ...",
    "--config": "name the train.yaml first, as in subquad train my.yaml --data ...",
    "--output": "use --out RUN",
    "--output-dir": "use --out RUN",
    "--lr": "use --set optim.lr=...",
    "--learning-rate": "use --set optim.lr=...",
    "--weight-decay": "use --set optim.weight_decay=...",
    "--warmup": "use --set schedule.warmup=...",
    "--scheduler": "use --set schedule.kind=cosine, polynomial or wsd",
    "--batch-size": "use --set batch=...",
    "--batch": "use --set batch=...",
    "--epochs": "training is counted in steps, use --steps N",
    "--max-steps": "use --steps N",
    "--seed": "use --set seed=...",
    "--threads": "use --set threads=...",
    "--eval-every": "use --set eval.every=...",
    "--save-every": "use --set save.every=...",
    "--tokenizer": "use --set data.tokenizer=...",
    "--vocab": "use --set data.tokenizer=... and --set model.vocab=...",
    "--text": "use --set data.format=text --set data.column=..., of a classifier --set objective.columns.text=...",
    "--format": "use --set data.format=...",
    "--max-len": "use --set model.max_len=...",
    "--context": "use --set model.max_len=...",
    "--dropout": "use --set model.stack.dropout=..., of a classifier --set model.dropout=...",
}


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad train``."""
    parser.add_argument(
        "model", nargs="?", metavar="PRESET|CONFIG", help="a preset (see subquad models), a train.yaml, or classifier; not with --resume"
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--data", nargs="+", action="extend", metavar="PATH", help="files, folders, globs, .gz .xz .zst .zip .tar; - is stdin")
    run.add_argument("--out", metavar="RUN", help="the run folder to write; must be new or empty without --resume")
    run.add_argument("--init", metavar="RUN", help="start from the weights of another run (fine-tuning)")
    run.add_argument("--steps", type=whole_number, metavar="N", help="optimizer steps; with --resume the new total")
    run.add_argument("--set", action="append", metavar="key=value", help="set a key of train.yaml, such as model.patch_size=4; repeatable")
    run.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    add_quiet(run)
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", help="auto (the default: a GPU if there is one), cpu, cuda or cuda:1")
    machine.add_argument("--dtype", help="auto (the default), float32 or bfloat16")
    machine.add_argument("--compile", action="store_const", const=True, help="torch.compile the model; on a CPU it needs a C++ compiler")


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and trains."""
    parser = Parser("train", "PRESET|CONFIG --data PATH... --out RUN [options]", ABOUT, HINTS)
    add_arguments(parser)
    request = parser.read(arguments)
    if not request.out:
        raise ValueError("--out is missing: name the run folder to write, such as --out runs/first")
    options = _options(request)
    if request.model is None and not request.resume:
        raise ValueError("name what to train: a preset (subquad models lists them) or a train.yaml")

    init = None if request.init is None else run_or_repository(request.init)

    from subquad import api

    result = api.run_training(request.model, request.data, request.out, options, init=init, resume=request.resume, quiet=request.quiet)
    if result.signal is not None:
        raise SystemExit(128 + result.signal)  # so that ``train && next`` does not go on
    if not request.quiet:
        print(result.out)


def _options(request: Namespace) -> dict[str, Any]:
    from subquad.cli.settings import parse_settings

    options = parse_settings(request.set or [])
    for name, value in given(request, "steps", "device", "dtype", "compile").items():
        if name in options:
            raise ValueError(f"--{name} and --set {name} are both given: keep one")
        options[name] = value
    return options
