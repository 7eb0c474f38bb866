"""A corpus: all documents that a run reads, and their split into train, valid and test.

Both ways to split are pure functions of names, sizes, fractions and seed. By document, whole documents are held out, drawn in the order
of a keyed hash of their names. By range, every document gives its first bytes to train, the next to valid and the last to test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from subquad.data.documents import Document
from subquad.data.fasta import fasta_documents
from subquad.data.files import Skipped, open_documents
from subquad.data.images import ImageShape, image_documents
from subquad.data.rows import TABLES
from subquad.data.split import Fractions, check_fractions
from subquad.data.synthetic import Task, is_task, parse_task, task_documents
from subquad.data.texts import text_documents
from subquad.data.windows import Span

Form = Literal["raw", "text", "fasta", "fasta-cased"]
_PROBED_DOCUMENTS, _PROBED_BYTES = 256, 4096
_ENOUGH_DOCUMENTS = 20
_RECORDED = 100  # of what was left out, in data.json


@dataclass(frozen=True)
class Split:
    """Three lists of spans that share no byte, and how they were made."""

    train: list[Span]
    valid: list[Span]
    test: list[Span]
    by: Literal["document", "range"]
    fractions: Fractions
    seed: int

    def record(self) -> dict[str, Any]:
        """What data.json says of it: bytes and documents of each part, and which documents or bytes are held out."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        sizes = {name: {"bytes": sum(span.size for span in spans), "documents": len(spans)} for name, spans in parts.items()}
        record: dict[str, Any] = {"by": self.by, "fractions": list(self.fractions), "seed": self.seed, "parts": sizes}
        held_out = {name: spans for name, spans in parts.items() if name != "train"}
        if self.by == "range":
            record["boundaries"] = {
                name: [[span.document.name, span.start, span.stop] for span in spans] for name, spans in held_out.items()
            }
        else:
            record["held_out"] = {name: [span.document.name for span in spans] for name, spans in held_out.items()}
        return record


class Corpus:
    """Documents sorted by name; ``empty`` counts the empty files that were skipped, and ``skipped`` names what else was.

    Of a ``task``, each example is one.
    """

    def __init__(
        self,
        documents: list[Document],
        paths: Sequence[str | Path] = (),
        image: ImageShape | None = None,
        empty: int = 0,
        task: Task | None = None,
        skipped: Sequence[Skipped] = (),
    ):
        self.documents = documents
        self.paths = [str(path) for path in paths]
        self.image = image
        self.task = task
        self.empty = empty
        self.skipped = skipped
        self.bytes = sum(document.size for document in documents)

    @classmethod
    def open(
        cls,
        paths: Sequence[str | Path] | Path,
        image: ImageShape | None = None,
        form: Form = "raw",
        column: str | int = "text",
        as_given: bool = False,
    ) -> Corpus:
        """Finds every document under files, folders, globs, archives and ``-`` (stdin), without reading plain files.

        With ``image``, files are raw images or uint8 .npy arrays (N, H, W, C), and each image is a document in scan order.
        With the form ``text``, each text in the ``column`` of a table (TSV, CSV, JSONL or Parquet) is a document; otherwise only those of
        Parquet are. With the form ``fasta``, each record of FASTA files is a document, its letters in capitals, with ``fasta-cased`` as
        they are.
        ``synthetic:recall,length=256`` in place of files makes the examples of a task, see ``data/synthetic.py``.
        ``as_given`` names and orders files as the paths do and keeps empty ones, for results that are listed.
        ``ValueError`` names a path that is missing, unreadable or of a wrong size, or says that there are no bytes at all.
        """
        paths = [paths] if isinstance(paths, str | Path) else paths
        if any(map(is_task, paths)):
            if len(paths) > 1 or image is not None or form != "raw":
                named = ", ".join(map(str, paths))
                raise ValueError(
                    f"a task cannot be combined with other data, got {named}: name it alone, without an image shape or a format"
                )
            task = parse_task(paths[0])
            return cls(task_documents(task), paths, task=task)
        documents, empty, skipped = open_documents(paths, as_given)
        if image is not None:
            documents = image_documents(documents, image)
        elif form in ("fasta", "fasta-cased"):
            documents = read_records(documents, form)
        else:
            documents, without_text = text_documents(documents, column, TABLES if form == "text" else ("parquet",))
            empty += without_text
        return cls(documents, paths, image, empty, skipped=skipped)

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, over the names and sizes of all documents, the ends of some of them, and the image shape if there is one.

        It tells other data from this, not every edited byte: reading all of it would cost as much as an epoch.
        """
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(f"{document.name}\0{document.size}\n".encode())
        for document in self.documents[:: -(-len(self.documents) // _PROBED_DOCUMENTS)]:
            digest.update(document.read(0, min(document.size, _PROBED_BYTES)).tobytes())
            digest.update(document.read(max(document.size - _PROBED_BYTES, 0), document.size).tobytes())
        if self.image is not None:
            digest.update(self.image.model_dump_json().encode())
        return digest.hexdigest()

    def split(self, fractions: Fractions = (0.9, 0.05, 0.05), by: Literal["auto", "document", "range"] = "auto", seed: int = 0) -> Split:
        """Splits into train, valid and test, whose shares of the bytes come as near to the fractions as the way allows.

        ``auto`` splits by document when there are at least 20 and none holds more than half of the bytes, or when the documents are
        images or examples of a task, and by range otherwise. A part is empty only if its fraction is 0; ``ValueError`` if there is too
        little data for that.
        """
        check_fractions(fractions)
        if by not in ("auto", "document", "range"):
            raise ValueError(f"expected a split by 'auto', 'document' or 'range', got {by!r}")
        if self.task is not None and by == "range":
            raise ValueError("examples of a task cannot be split by range: use 'document' or 'auto'")
        way: Literal["document", "range"] = by if by != "auto" else "document" if self._has_many() else "range"
        parts = self._by_document(fractions, seed) if way == "document" else self._by_range(fractions)
        return Split(*parts, by=way, fractions=fractions, seed=seed)

    def record(self, split: Split | None = None) -> dict[str, Any]:
        """What data.json says: paths, number of documents, bytes, fingerprint and, when given, the split."""
        return {
            "paths": self.paths,
            "documents": len(self.documents),
            "empty": self.empty,
            "skipped": [list(skipped) for skipped in self.skipped[:_RECORDED]],
            "bytes": self.bytes,
            "fingerprint": self.fingerprint,
            "image": None if self.image is None else self.image.model_dump(mode="json"),
            "task": None if self.task is None else self.task.model_dump(mode="json"),
            "split": None if split is None else split.record(),
        }

    def _has_many(self) -> bool:
        if self.image is not None or self.task is not None:
            return True
        return len(self.documents) >= _ENOUGH_DOCUMENTS and 2 * max(document.size for document in self.documents) <= self.bytes

    def _by_document(self, fractions: Fractions, seed: int) -> tuple[list[Span], list[Span], list[Span]]:
        wanted = sum(fraction > 0 for fraction in fractions)
        if len(self.documents) < wanted:
            raise ValueError(f"expected at least {wanted} documents to split by document, got {len(self.documents)}: split by range")
        drawn = sorted(self.documents, key=lambda document: _draw(document.name, seed))
        valid, drawn = _take(drawn, fractions[1] * self.bytes, keep=2 if fractions[2] else 1)
        test, train = _take(drawn, fractions[2] * self.bytes, keep=1)
        return _whole(train), _whole(valid), _whole(test)

    def _by_range(self, fractions: Fractions) -> tuple[list[Span], list[Span], list[Span]]:
        parts: tuple[list[Span], list[Span], list[Span]] = ([], [], [])
        for document in self.documents:
            cuts = [0, round(document.size * fractions[0]), round(document.size * (fractions[0] + fractions[1])), document.size]
            for part, start, stop in zip(parts, cuts[:-1], cuts[1:], strict=True):
                if start < stop:
                    part.append(Span(document, start, stop))
        if any(fraction and not part for fraction, part in zip(fractions, parts, strict=True)):
            shares = "/".join(f"{fraction:g}" for fraction in fractions)
            raise ValueError(
                f"{self.bytes} bytes in {len(self.documents)} document(s) are too few to split by range into {shares}: "
                "give more data, or set a fraction to 0"
            )
        return parts


def read_records(documents: list[Document], form: Form) -> list[Document]:
    """The records of FASTA files in the FASTA forms; otherwise the files as they are."""
    return fasta_documents(documents, upper=form == "fasta") if form in ("fasta", "fasta-cased") else documents


def _draw(name: str, seed: int) -> bytes:
    key = (seed & (1 << 64) - 1).to_bytes(8, "little")
    return hashlib.blake2b(name.encode(), digest_size=16, key=key).digest()


def _whole(documents: list[Document]) -> list[Span]:
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
