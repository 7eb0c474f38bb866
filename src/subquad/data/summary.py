"""What data.json says of a run's data, in sentences: how much there is and what was held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subquad.format import amount, count

_PURPOSES = {"train": "to train on", "valid": "for validation", "test": "to test on"}
_ITEMS = ("document", "text", "pair")  # what a part is counted in, by the kind of data
_MOST_KINDS = 6


def data_summary(record: Mapping[str, Any]) -> list[str]:
    """A line on the parts of the data and one on what is held out of each kind, from the content of a data.json.

    Of a record of an earlier version, or a damaged one, what it has.
    """
    split = record.get("split")
    split = split if isinstance(split, Mapping) else {}
    parts = split.get("parts") or record.get("parts")
    lines = []
    if isinstance(parts, Mapping):
        lines.append("data: " + ", ".join(f"{_amount(parts[name])} {purpose}" for name, purpose in _PURPOSES.items() if name in parts))
    kinds = split.get("kinds")
    if isinstance(kinds, Mapping) and kinds:
        shown = [_of_kind(name, kind) for name, kind in list(kinds.items())[:_MOST_KINDS]]
        lines.append("held out: " + "; ".join(shown) + ("; ..." if len(kinds) > _MOST_KINDS else ""))
    return lines


def _amount(part: Mapping[str, Any]) -> str:
    item = next((item for item in _ITEMS if f"{item}s" in part), None)
    words = count(part.get("bytes"), "B")
    return words if item is None else f"{words} in {amount(part[f'{item}s'], item)}"


def _of_kind(name: str, kind: Mapping[str, Any]) -> str:
    """What is held out of the documents with one suffix."""
    documents, cut = kind["documents"], kind["cut"]
    valid, test = (max(held - cut, 0) for held in kind["documents_of_parts"][1:])
    whole, ends = f"{valid:,} and {test:,} of {documents - cut:,} {name}", f"the ends of {cut:,} {name}"
    return whole if not cut else ends if cut == documents else f"{whole} and {ends}"
