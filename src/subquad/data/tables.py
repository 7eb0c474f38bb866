"""Tables of texts: examples made of their rows (``data/rows.py``), in three parts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from subquad.data.documents import Document
from subquad.data.shuffle import Integers, generator
from subquad.data.split import PARTS, Fractions, check_fractions


class Row(Protocol):
    """What is learned from a row: ``fields`` are its texts and labels."""

    @property
    def fields(self) -> tuple[bytes | str | None, ...]: ...


E = TypeVar("E", bound=Row)


@dataclass(frozen=True)
class TableData(ABC, Generic[E]):
    """Three lists of examples and the paths they came from."""

    train: list[E]
    valid: list[E]
    test: list[E]
    paths: list[str]

    @property
    def parts(self) -> dict[str, list[E]]:
        """The lists by name."""
        return dict(zip(PARTS, (self.train, self.valid, self.test), strict=True))

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, over all parts."""
        digest = hashlib.sha256()
        for part in self.parts.values():
            digest.update(f"{len(part)} ".encode())
            for example in part:
                for field in example.fields:
                    content = field.encode("utf-8", "surrogateescape") if isinstance(field, str) else field
                    digest.update(b"- " if content is None else f"{len(content)} ".encode() + content)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What data.json says: paths, fingerprint, and of each part what ``summary`` counts."""
        parts = {name: self.summary(part) for name, part in self.parts.items()}
        return {"paths": self.paths, "fingerprint": self.fingerprint, "parts": parts}

    @abstractmethod
    def summary(self, part: Sequence[E]) -> dict[str, Any]:
        """What there is in a part."""


def read_parts(
    read: Callable[[Sequence[str]], list[E]],
    draw: Callable[[list[E], Fractions, np.random.Generator], Integers],
    paths: Sequence[str],
    valid: Sequence[str],
    test: Sequence[str],
    fractions: Fractions,
    seed: int,
) -> tuple[list[E], list[E], list[E]]:
    """The examples of the training part, of the validation part and of the test part, each in the order of its data.

    What is in ``valid`` and ``test`` is held out. Without ``valid`` the fractions of ``paths`` are, and ``draw`` says of each example its
    part, as an index of ``PARTS``. Raises ``ValueError`` for fractions that cannot be.
    """
    check_fractions(fractions)
    whole, held_out, tested = (read(part) if part else [] for part in (paths, valid, test))
    if valid:
        return whole, held_out, tested
    shares = (fractions[0], fractions[1], 0.0 if test else fractions[2])
    drawn: tuple[list[E], list[E], list[E]] = ([], [], [])
    if whole:
        for example, part in zip(whole, draw(whole, shares, generator(seed, "split")).tolist(), strict=True):
            drawn[part].append(example)
    return drawn[0], drawn[1], tested if test else drawn[2]


def read_tables(documents: Sequence[Document], read: Callable[[Document], Iterable[E]], content: str) -> list[E]:
    """The examples of all tables. Raises ``ValueError`` for a table without any; ``content`` says what it should hold."""
    examples: list[E] = []
    for document in documents:
        before = len(examples)
        examples.extend(read(document))
        if len(examples) == before:
            raise ValueError(f"{document.name} has no line of data below its header: add lines with {content}")
    return examples
