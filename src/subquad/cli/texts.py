"""Texts that a model can read, among those that were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subquad.cli.output import print_left_out

if TYPE_CHECKING:
    from torch import nn

    from subquad.data.labelled import Example

Texts = list[tuple[str, "Example"]]


def readable(model: nn.Module, texts: Sequence[tuple[str, Example]], truncate: bool, skip_bad: bool) -> tuple[Texts, dict[str, str]]:
    """The texts that the model can read, and with ``skip_bad`` why it cannot read the others, by their names.

    Raises ``ValueError`` for one that it cannot read, with its file and line, and if none is left.
    """
    from subquad import api

    reasons = api.unreadable(model, [example.text for _, example in texts], truncate=truncate)
    if reasons and (not skip_bad or len(reasons) == len(texts)):
        number, reason = next(iter(reasons.items()))
        others = f" ({len(reasons) - 1} more such texts)" if len(reasons) > 1 else ""
        remedy = "" if skip_bad else "; --skip-bad leaves such texts out"
        raise ValueError(f"{texts[number][1].where}: {reason}{others}{remedy}")
    left_out = {texts[number][0]: reason for number, reason in reasons.items()}
    print_left_out(list(left_out.items()))
    return [text for number, text in enumerate(texts) if number not in reasons], left_out
