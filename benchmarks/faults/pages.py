"""Labels, names and texts full of markup: the pages of runs show them, and none becomes an element or an attribute."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import yaml

from benchmarks.faults.campaign import CONFIG, Tally, command, prepare

MARKUP = [
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "</style><script>alert(1)</script>",
    "</svg><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
]


class _Elements(HTMLParser):
    """Collects what a browser could run."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        handlers = [name for name, value in attrs if name.startswith("on") or (value or "").strip().lower().startswith("javascript:")]
        self.active += [tag] * (tag in ("script", "iframe", "object", "img")) + handlers


def run(folder: Path) -> Tally:
    """Trains a classifier with each text as a label, a text, a file name and a prompt, and reads its page."""
    prepare(folder)
    tally = Tally("pages full of markup")
    for number, text in enumerate(MARKUP):
        table = folder / f"{text.replace('/', '_')}.jsonl"
        rows = [{"text": f"{text} {row}", "label": text if row % 2 else f"{text}2"} for row in range(40)]
        table.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        model = {"kind": "classifier", "backbone": CONFIG["model"]}
        (folder / "classifier.yaml").write_text(yaml.safe_dump(CONFIG | {"model": model}), encoding="utf-8")
        out = folder / f"run{number}"
        ended = command(["train", str(folder / "classifier.yaml"), "--data", str(table), "--out", str(out)], folder / "log")
        tally.tried += 1
        tally.expect(ended.status == 0, f"{text!r}: status {ended.status}, {ended.output[-300:]}")
        if ended.status == 0:
            page = _Elements()
            page.feed((out / "report.html").read_text(encoding="utf-8"))
            tally.expect(not page.active, f"{text!r} became {page.active}")
    return tally
