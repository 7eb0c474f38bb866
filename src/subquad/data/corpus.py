"""A corpus: all documents that a run reads, and their split into train, valid and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from subquad.data.documents import Document
from subquad.data.fasta import fasta_documents
from subquad.data.files import Skipped, open_documents
from subquad.data.held_out import WAYS, Split, Way, split_documents
from subquad.data.images import ImageShape, image_documents
from subquad.data.rows import TABLES
from subquad.data.split import Fractions, check_fractions
from subquad.data.synthetic import Task, is_task, parse_task, task_documents
from subquad.data.texts import text_documents

Form = Literal["raw", "text", "fasta", "fasta-cased"]
_PROBED_DOCUMENTS, _PROBED_BYTES = 256, 4096
_RECORDED = 100  # of what was left out, in data.json


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

    def split(self, fractions: Fractions = (0.9, 0.05, 0.05), by: Way | Literal["auto"] = "auto", seed: int = 0) -> Split:
        """Splits into train, valid and test, whose shares of the bytes come as near to the fractions as the way allows.

        ``auto`` splits images and examples of a task by document, and anything else stratified by kind; see ``data/held_out.py``. A part is
        empty only if its fraction is 0; ``ValueError`` if there is too little data for that.
        """
        check_fractions(fractions)
        if by not in ("auto", *WAYS):
            raise ValueError(f"expected a split by {', '.join(map(repr, WAYS))} or 'auto', got {by!r}")
        if self.task is not None and by not in ("auto", "document"):
            raise ValueError(f"examples of a task cannot be split by {by!r}: use 'document' or 'auto'")
        if by == "auto":
            by = "document" if self.image is not None or self.task is not None else "stratified"
        return split_documents(self.documents, fractions, by, seed)

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


def read_records(documents: list[Document], form: Form) -> list[Document]:
    """The records of FASTA files in the FASTA forms; otherwise the files as they are."""
    return fasta_documents(documents, upper=form == "fasta") if form in ("fasta", "fasta-cased") else documents
