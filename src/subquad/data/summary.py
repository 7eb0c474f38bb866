"""What data.json says of a run's data, in sentences: how much there is, what was held out, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subquad.format import count

_PURPOSES = {"train": "to train on", "valid": "for validation", "test": "to test on"}
_ITEMS = ("documents", "texts", "pairs")  # what a part is counted in, by the kind of data
_MOST_KINDS = 6


def data_summary(record: Mapping[str, Any]) -> list[str]:
    """A line each on the data, on what is held out of them and on what was left out, from the content of a data.json.

    Of a record of an earlier version, or a damaged one, what it has.
    """
    split = record.get("split")
    split = split if isinstance(split, Mapping) else {}
    parts = split.get("parts") or record.get("parts")
    lines = []
    if isinstance(parts, Mapping):
        lines.append("data: " + ", ".join(f"{_amount(parts[name])} {purpose}" for name, purpose in _PURPOSES.items() if name in parts))
    kinds = split.get("kinds")
    if isinstance(kinds, Sequence) and kinds:
        lines.append("held out: " + "; ".join(map(_of_kind, kinds[:_MOST_KINDS])) + ("; ..." if len(kinds) > _MOST_KINDS else ""))
    skipped = record.get("skipped")
    if isinstance(skipped, Sequence) and skipped:
        lines.append(f"left out: {', '.join(f'{name} ({reason})' for name, reason in skipped[:3])}" + (", ..." if len(skipped) > 3 else ""))
    return lines


def _amount(part: Mapping[str, Any]) -> str:
    item = next((item for item in _ITEMS if item in part), None)
    words = count(part.get("bytes"), "B")
    return words if item is None else f"{words} in {part[item]:,} {item}"


def _of_kind(kind: Mapping[str, Any]) -> str:
    """What is held out of the documents with one suffix."""
    documents, cut, name = int(kind["documents"]), int(kind["cut"]), kind["kind"] or "without suffix"
    valid, test = (max(int(kind[part]["documents"]) - cut, 0) for part in ("valid", "test"))
    whole, ends = f"{valid:,} and {test:,} of {documents - cut:,} {name}", f"the ends of {cut:,} {name}"
    return whole if not cut else ends if cut == documents else f"{whole} and {ends}"
