"""What is held out of documents for validation and test. All ways are pure functions of names, sizes, fractions and the seed.

- document: whole documents, drawn in the order of a keyed hash of their names;
- range: of every document the first bytes are for training, the next for validation, the last for test;
- stratified: of every kind of document its share. A kind is a folder, a suffix and a size within a factor of four. Where a kind has so many
  documents that whole ones make up the smallest part, whole ones are drawn; the others are joined with more of their suffix, and small ones
  with other small ones. What is still too few, such as a database, four recordings or five books, is split by range.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from subquad.data.documents import Document
from subquad.data.split import PARTS, Fractions
from subquad.data.windows import Span

Way = Literal["document", "range", "stratified"]
WAYS: tuple[Way, ...] = ("document", "range", "stratified")

Parts: TypeAlias = tuple[list[Span], list[Span], list[Span]]

NO_SUFFIX = "without suffix"  # the name of such a kind
SMALL = 1 << 16  # bytes; a document below it has no long parts to hold out
_SUFFIX = re.compile(r"\.([A-Za-z][A-Za-z0-9_]{0,9}|\d[A-Za-z][A-Za-z0-9]?)(?::\d+)?$")  # also of a row of a table, ``a.jsonl:12``
_RECORDED_KINDS, _RECORDED_NAMES = 20, 100_000


@dataclass(frozen=True)
class Split:
    """Three lists of spans that share no byte, and how they were made."""

    train: list[Span]
    valid: list[Span]
    test: list[Span]
    by: Way
    fractions: Fractions
    seed: int

    def record(self) -> dict[str, Any]:
        """What data.json says of it: documents and bytes of each part and of each kind, and which documents or bytes are held out."""
        parts = dict(zip(PARTS, (self.train, self.valid, self.test), strict=True))
        record: dict[str, Any] = {"by": self.by, "fractions": list(self.fractions), "seed": self.seed}
        record["parts"] = {name: _sizes(spans) for name, spans in parts.items()}
        record["kinds"] = _kinds(parts)
        held_out = {name: spans for name, spans in parts.items() if name != "train"}
        if self.by != "range":
            record["held_out"] = {
                name: [span.document.name for span in spans if _is_whole(span)][:_RECORDED_NAMES] for name, spans in held_out.items()
            }
        if self.by != "document":
            record["boundaries"] = {
                name: [[span.document.name, span.start, span.stop] for span in spans if self.by == "range" or not _is_whole(span)]
                for name, spans in held_out.items()
            }
        return record


def split_documents(documents: Sequence[Document], fractions: Fractions, by: Way, seed: int) -> Split:
    """The split of documents, sorted by name, into parts whose shares of the bytes come as near to the fractions as the way allows.

    A part is empty only if its fraction is 0; ``ValueError`` if there is too little data for that.
    """
    ways: dict[Way, Callable[[Sequence[Document], Fractions, int], Parts]] = {
        "document": _by_document,
        "range": _by_range,
        "stratified": _stratified,
    }
    parts = ways[by](documents, fractions, seed)
    if any(fraction and not part for fraction, part in zip(fractions, parts, strict=True)):
        shares = "/".join(f"{fraction:g}" for fraction in fractions)
        size = sum(document.size for document in documents)
        raise ValueError(
            f"{size} bytes in {len(documents)} document(s) are too few to split into {shares}: give more data, or set a fraction to 0"
        )
    return Split(*parts, by=by, fractions=fractions, seed=seed)


def suffix_of(name: str) -> str:
    """The suffix of a document by its name, in lower case, or that of the file that it is a part of; empty for none."""
    folder, _, last = name.rpartition("/")
    found = _SUFFIX.search(last) or _SUFFIX.search(folder)
    return f".{found[1].lower()}" if found else ""


def _stratified(documents: Sequence[Document], fractions: Fractions, seed: int) -> Parts:
    least = min((fraction for fraction in fractions[1:] if fraction), default=0.0)
    if not least:
        return _whole(documents), [], []
    parts: Parts = ([], [], [])
    pending = list(documents)
    for kind in _KINDS:
        groups: dict[object, list[Document]] = {}
        for document in pending:
            groups.setdefault(kind(document), []).append(document)
        pending = groups.pop(None, [])
        for group in groups.values():
            whole, others = _enough(group, 2 * least if kind is _if_small else least)  # better twice its share than the ends of notes
            pending += others
            if whole:
                for part, spans in zip(parts, _by_document(whole, fractions, seed), strict=True):
                    part.extend(spans)
    for part, spans in zip(parts, _by_range(pending, fractions, seed), strict=True):
        part.extend(spans)
    if not all(part or not fraction for fraction, part in zip(fractions, parts, strict=True)) and len(documents) >= len(PARTS):
        return _by_document(documents, fractions, seed)  # of a few bytes each
    train, valid, test = (sorted(part, key=lambda span: span.document.name) for part in parts)
    return train, valid, test


def _enough(group: list[Document], least: float) -> tuple[list[Document], list[Document]]:
    """The documents of a group if whole ones can make up its smallest part, and the others: large ones beyond its size, or all."""
    by_size = sorted(group, key=lambda document: document.size)
    total, count = sum(document.size for document in group), len(group)
    while count and by_size[count - 1].size > max(SMALL, 2 * least * total):
        count -= 1
        total -= by_size[count].size
    if count * least < 1 - 1e-9:
        return [], group
    large = set(map(id, by_size[count:]))
    return [document for document in group if id(document) not in large], by_size[count:]


def _place_and_size(document: Document) -> object:
    return document.name.rpartition("/")[0], suffix_of(document.name), _size_class(document)


def _top_and_size(document: Document) -> object:
    return document.name.partition("/")[0], suffix_of(document.name), _size_class(document)


def _suffix_and_size(document: Document) -> object:
    return suffix_of(document.name), _size_class(document)


def _suffix(document: Document) -> object:
    return suffix_of(document.name)


def _if_small(document: Document) -> object:
    return "small" if document.size < SMALL else None


_KINDS: tuple[Callable[[Document], object], ...] = (_place_and_size, _top_and_size, _suffix_and_size, _suffix, _if_small)


def _size_class(document: Document) -> int:
    return document.size.bit_length() // 2


def _by_document(documents: Sequence[Document], fractions: Fractions, seed: int) -> Parts:
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(documents) < wanted:
        raise ValueError(f"expected at least {wanted} documents to split by document, got {len(documents)}: split by range")
    size = sum(document.size for document in documents)
    drawn = sorted(documents, key=lambda document: _draw(document.name, seed))
    valid, drawn = _take(drawn, fractions[1] * size, keep=2 if fractions[2] else 1)
    test, train = _take(drawn, fractions[2] * size, keep=1)
    return _whole(train), _whole(valid), _whole(test)


def _by_range(documents: Sequence[Document], fractions: Fractions, seed: int) -> Parts:
    parts: Parts = ([], [], [])
    for document in documents:
        cuts = [0, round(document.size * fractions[0]), round(document.size * (fractions[0] + fractions[1])), document.size]
        for part, start, stop in zip(parts, cuts[:-1], cuts[1:], strict=True):
            if start < stop:
                part.append(Span(document, start, stop))
    return parts


def _draw(name: str, seed: int) -> bytes:
    key = (seed & (1 << 64) - 1).to_bytes(8, "little")
    return hashlib.blake2b(name.encode(), digest_size=16, key=key).digest()


def _whole(documents: Iterable[Document]) -> list[Span]:
    return [Span(document, 0, document.size) for document in sorted(documents, key=lambda document: document.name)]


def _take(documents: list[Document], target: float, keep: int) -> tuple[list[Document], list[Document]]:
    """Takes each document that brings the bytes taken nearer to the target, or else the smallest; returns (taken, remaining).

    At least ``keep`` documents remain for the other parts.
    """
    if target == 0:
        return [], documents
    taken: list[Document] = []
    remaining: list[Document] = []
    total = 0
    for document in documents:
        if document.size < 2 * (target - total) and len(taken) < len(documents) - keep:
            taken.append(document)
            total += document.size
        else:
            remaining.append(document)
    if not taken:
        taken.append(remaining.pop(min(range(len(remaining)), key=lambda index: remaining[index].size)))
    return taken, remaining


def _is_whole(span: Span) -> bool:
    return span.start == 0 and span.stop == span.document.size


def _sizes(spans: Sequence[Span]) -> dict[str, int]:
    return {"bytes": sum(span.size for span in spans), "documents": len(spans)}


def _kinds(parts: dict[str, list[Span]]) -> dict[str, dict[str, Any]]:
    """Of each suffix, the largest first: its documents, how many of them are cut, and the documents and bytes in each part."""
    found: dict[str, dict[str, list[Span]]] = {}
    for name, spans in parts.items():
        for span in spans:
            found.setdefault(suffix_of(span.document.name) or NO_SUFFIX, {part: [] for part in parts})[name].append(span)
    sizes = {kind: sum(span.size for spans in kinds.values() for span in spans) for kind, kinds in found.items()}
    ordered = sorted(found, key=lambda kind: (-sizes[kind], kind))
    if len(ordered) > _RECORDED_KINDS:
        rest = ordered[_RECORDED_KINDS - 1 :]
        found["others"] = {part: [span for kind in rest for span in found[kind][part]] for part in parts}
        ordered = [*ordered[: _RECORDED_KINDS - 1], "others"]
    return {kind: _kind(list(found[kind].values())) for kind in ordered}


def _kind(parts: Sequence[Sequence[Span]]) -> dict[str, Any]:
    spans = [span for part in parts for span in part]
    return {
        "documents": len({id(span.document) for span in spans}),
        "cut": len({id(span.document) for span in spans if not _is_whole(span)}),
        "documents_of_parts": [len(part) for part in parts],
        "bytes_of_parts": [sum(span.size for span in part) for part in parts],
    }
