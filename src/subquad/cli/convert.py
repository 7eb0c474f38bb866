"""``subquad convert``: an official checkpoint, made into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from subquad.cli.arguments import TEXT, option, parse_arguments

ABOUT = """Makes a run folder of an official checkpoint: the model in it generates, scores, embeds or classifies as one trained here.

Kinds: hyena-lm (HazyResearch/safari), hyena-dna (HazyResearch/hyena-dna), m2-bert and m2-bert-embedding (HazyResearch/m2).

Example:
  subquad convert weights.ckpt --from hyena-lm --config config.json --tokenizer tokenizer.json --out runs/hyena"""


@dataclass(frozen=True)
class Convert:
    """The arguments of ``subquad convert``."""

    src: Annotated[Positional[str], option("a .safetensors, .pt, .ckpt or .bin file, or a folder that holds one", "SRC")]
    kind: Annotated[str | None, TEXT, arg(name="from", help="what it is a checkpoint of", metavar="KIND", help_behavior_hint="")] = None
    out: Annotated[str | None, TEXT, option("the run folder to write; must be new or empty", "RUN")] = None
    config: Annotated[
        str | None, TEXT, option("the official config, .json or .yaml; by default config.json beside the weights", "FILE")
    ] = None
    tokenizer: Annotated[str | None, TEXT, option("a tokenizer.json to keep with the model", "FILE")] = None
    padding: Annotated[Literal["masked", "official"], option("official lets padding change an encoder's results, as the original does")] = (
        "masked"
    )


def main(arguments: Sequence[str]) -> None:
    """Reads the arguments and converts."""
    request = parse_arguments(Convert, "convert", ABOUT, arguments)
    if request.kind is None:
        raise ValueError("--from is missing: name the kind of checkpoint, such as --from hyena-lm")
    if request.out is None:
        raise ValueError("--out is missing: name the run folder to write, such as --out runs/hyena")

    from subquad import api

    print(api.convert(request.src, request.kind, request.out, request.config, request.tokenizer, request.padding))
