"""Labelled texts in folders: the class of a file is the name of its folder, as in ``train/pos/0_9.txt``.

An archive does not count as a folder: ``reviews.zip/pos/0_9.txt`` is of the class ``pos`` too. Files beside the folders of two or more
classes, such as a README, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from subquad.data.documents import Document
from subquad.data.unpack import is_archive

Folder: TypeAlias = tuple[str, ...]  # the parts of its path


def class_of(name: str) -> str | None:
    """The class of a document by its name; None for one outside of any folder."""
    folder = _folder(name)
    return folder[-1] if folder else None


def in_folders(documents: Sequence[Document]) -> list[tuple[Document, str]]:
    """The documents that are texts of classes, in their order, each with its class.

    ``ValueError`` for a document outside of any folder, and for one beside a single folder, which may be a class or not.
    """
    holding = dict.fromkeys(_folder(document.name) for document in documents)
    outer = {folder[:depth] for folder in holding for depth in range(len(folder))}
    classes: dict[Folder, set[str]] = {}  # below each folder
    for folder in holding:
        if folder not in outer:
            for depth in range(len(folder)):
                classes.setdefault(folder[:depth], set()).add(folder[-1])
    texts = []
    for document in documents:
        folder = _folder(document.name)
        below = classes.get(folder, set())
        if len(below) == 1:
            raise ValueError(
                f"{document.name} is beside a single folder with files, {min(below)!r}: expected files of one class, or folders of two "
                "classes or more; move one of them out"
            )
        if not below and not folder:
            raise ValueError(
                f"{document.name} is not a table by its name, and is not in the folder of a class: expected .tsv, .csv or .jsonl (or "
                "say which "
                "in objective.columns.table), or a folder whose folders are the classes"
            )
        if not below:
            texts.append((document, folder[-1]))
    return texts


def _folder(name: str) -> Folder:
    return tuple(part for part in name.split("/")[:-1] if not is_archive(part))
