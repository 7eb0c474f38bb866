"""``subquad convert``: an official checkpoint, converted to a run folder."""

from __future__ import annotations

from collections.abc import Sequence

from subquad.cli.arguments import Parser

ABOUT = """Converts an official checkpoint to a run folder, for generate, score, embed and classify.

Kinds: hyena-lm (HazyResearch/safari), hyena-dna (HazyResearch/hyena-dna),
m2-bert and m2-bert-embedding (HazyResearch/m2).

Example:
  subquad convert weights.ckpt --from hyena-lm --config config.json --out runs/hyena"""


def add_arguments(parser: Parser) -> None:
    """The arguments of ``subquad convert``."""
    parser.add_argument("src", nargs="?", metavar="SRC", help="a .safetensors, .pt, .ckpt or .bin file, or a folder that holds one")
    parser.add_argument("--from", dest="kind", metavar="KIND", help="the kind of checkpoint")
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
    parser = Parser("convert", "SRC --from KIND --out RUN [options]", ABOUT)
    add_arguments(parser)
    request = parser.read(arguments)
    if request.src is None:
        raise ValueError("SRC is missing: name the official weights, such as weights.ckpt")
    if request.kind is None:
        raise ValueError("--from is missing: name the kind of checkpoint, such as --from hyena-lm")
    if request.out is None:
        raise ValueError("--out is missing: name the run folder to write, such as --out runs/hyena")

    from subquad import api

    print(api.convert(request.src, request.kind, request.out, request.config, request.tokenizer, request.padding))
