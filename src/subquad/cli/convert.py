"""``subquad convert``: an official checkpoint, converted to a run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from subquad.cli.arguments import Parser
from subquad.format import visible

ABOUT = """Converts an official checkpoint to a run folder, for generate, score, embed and classify.

Kinds: hyena-lm (HazyResearch/safari), hyena-dna (HazyResearch/hyena-dna),
m2-bert and m2-bert-embedding (HazyResearch/m2). The config of a HyenaDNA or
M2-BERT from the Hugging Face hub says its kind. What was taken off the
weights (module., state_dict, ...) or ignored is said on standard error.

Example:
  subquad convert weights.ckpt --from hyena-lm --config config.json --out runs/hyena

A repository of the hub:
  subquad convert LongSafari/hyenadna-tiny-1k-seqlen-hf --out runs/dna"""


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad convert``."""
    parser.add_argument(
        "src",
        nargs="?",
        metavar="SRC",
        help="a .safetensors, .pt, .ckpt or .bin file, an .index.json of shards, a folder with one, or org/name[@revision] of the hub",
    )
    parser.add_argument("--from", dest="kind", metavar="KIND", help="the kind of checkpoint (default: what the config says)")
    parser.add_argument("--out", metavar="RUN", help="the run folder to write; must be new or empty")
    parser.add_argument("--config", metavar="FILE", help="the official config, .json or .yaml (default: config.json beside the weights)")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json to keep with the model")
    parser.add_argument(
        "--padding",
        choices=("masked", "official"),
        default="masked",
        help="masked (the default): padding never changes an encoder's results; official: it does, as in the original code",
    )


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and converts."""
    parser = Parser("convert", "SRC --out RUN [--from KIND] [options]", ABOUT)
    add_arguments(parser)
    request = parser.read(arguments)
    if request.src is None:
        raise ValueError("SRC is missing: name the official weights, such as weights.ckpt")
    if request.out is None:
        raise ValueError("--out is missing: name the run folder to write, such as --out runs/hyena")

    from subquad import api

    def tell(text: str) -> None:
        print(visible(text), file=sys.stderr)

    print(api.convert(request.src, request.kind, request.out, request.config, request.tokenizer, request.padding, tell))
