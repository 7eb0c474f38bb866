"""The commands that ``benchmarks/first_use.py`` and ``fine_tuning.py`` measure are those that the manual shows."""

from __future__ import annotations

from benchmarks import fine_tuning, first_use
from tests.docs.pages import PAGES, blocks


def test_what_is_measured_is_what_is_shown() -> None:
    shown = {" ".join(command.split()) for page in PAGES for block in blocks(page) if block.language == "sh" for command in block.commands}
    assert {first_use.TEXT, first_use.TOKENS, first_use.CLASSIFIER, fine_tuning.FINE_TUNED, fine_tuning.TUNED_ENCODER} <= shown
