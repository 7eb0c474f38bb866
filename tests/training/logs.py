"""Reading log.jsonl as it is, every field of it."""

from __future__ import annotations

import json
from pathlib import Path

from subquad.training.progress import Record


def read_log(run: str | Path) -> list[Record]:
    """The records of a run in order, without those of steps that a resumed run has done again, and without a half-written line."""
    records: list[Record] = []
    for line in (Path(run) / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        record = json.loads(line)
        if record["kind"] == "resume":
            records = [earlier for earlier in records if earlier["step"] <= record["step"]]
        records.append(record)
    return records
