"""Pairs: tables (TSV, CSV, JSONL) of a query and a passage that answers it, split into train, valid and test.

A query may have several passages, in lines of their own, and a passage may answer several queries. A split by fractions is of queries:
all pairs of one query are in the same part, drawn by the seed and the place of its first line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import model_validator

from subquad.config import Config
from subquad.data.documents import Document
from subquad.data.files import open_documents
from subquad.data.labelled import Table, cell, check_alike, check_fractions, read_rows
from subquad.data.shuffle import keyed

_NAMING = "data.pairs.query=question"


class PairColumns(Config):
    """Where a table has its queries and passages: by names in its first line, or by numbers, from 0 on, in a table without one.

    ``negative`` is a passage that does not answer the query. ``table`` None goes by the end of the file's name.
    """

    query: str | int = "query"
    passage: str | int = "passage"
    negative: str | int | None = None
    table: Table | None = None

    @model_validator(mode="after")
    def _alike(self) -> PairColumns:
        check_alike({"query": self.query, "passage": self.passage, "negative": self.negative})
        return self


class Pair(NamedTuple):
    """A query and its passage in bytes, and one that is not its passage, if there is one."""

    query: bytes
    passage: bytes
    negative: bytes | None = None


@dataclass(frozen=True)
class Pairs:
    """Three lists of pairs and the paths they came from."""

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]
    paths: list[str]

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, over all parts."""
        digest = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            digest.update(f"{len(part)} ".encode())
            for pair in part:
                for text in pair:
                    digest.update(b"- " if text is None else f"{len(text)} ".encode() + text)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What data.json says: paths, fingerprint, and of each part the pairs, their queries and passages, and the bytes of these."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {"paths": self.paths, "fingerprint": self.fingerprint, "parts": {name: _counts(part) for name, part in named.items()}}


def read_pairs(
    paths: Sequence[str],
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    columns: PairColumns | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    seed: int = 0,
) -> Pairs:
    """Reads tables; what is in ``valid`` and ``test`` is held out, and otherwise the fractions of the queries of ``paths``.

    With files for ``valid`` and none for ``test`` all of ``paths`` is for training. ``ValueError`` names a file and line that cannot be
    read, a missing column, an empty text and an empty file.
    """
    columns = columns or PairColumns()
    train, held_out, tested = (_pairs(part, columns) for part in (paths, valid, test))
    if not valid:
        shares = (fractions[0], fractions[1], 0.0 if test else fractions[2])
        train, held_out, drawn = _drawn(train, shares, seed)
        tested = tested or drawn
    return Pairs(train, held_out, tested, [str(path) for path in (*paths, *valid, *test)])


def _pairs(paths: Sequence[str], columns: PairColumns) -> list[Pair]:
    found = []
    for document in open_documents(paths)[0] if paths else []:
        found += (pairs := _read(document, columns))
        if not pairs:
            raise ValueError(f"{document.name} has no line of data below its first: give one with queries and passages")
    return found


def _read(document: Document, columns: PairColumns) -> list[Pair]:
    wanted = [column for column in (columns.query, columns.passage, columns.negative) if column is not None]
    pairs = []
    for where, row in read_rows(document, columns.table, isinstance(columns.query, int), "data.pairs"):
        texts = [cell(row, column, where, _NAMING) for column in wanted]
        for column, text in zip(wanted, texts, strict=True):
            if not text:
                raise ValueError(f"{where}: {column!r} is empty, and an empty text has no vector: leave the line out")
        pairs.append(Pair(*(text.encode("utf-8", "surrogateescape") for text in texts)))
    return pairs


def _drawn(pairs: list[Pair], fractions: tuple[float, float, float], seed: int) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Parts in the data's own order, each with its share of the queries to the nearest whole number, at least one for training."""
    check_fractions(fractions)
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    order = np.argsort(keyed(seed, np.arange(len(queries))), kind="stable").tolist()
    first = min(round(len(queries) * fractions[1] / sum(fractions)), len(queries) - 1)
    second = min(first + round(len(queries) * fractions[2] / sum(fractions)), len(queries) - 1)
    held_out, tested = ({queries[place] for place in order[start:stop]} for start, stop in ((0, first), (first, second)))
    return (
        [pair for pair in pairs if pair.query not in held_out | tested],
        [pair for pair in pairs if pair.query in held_out],
        [pair for pair in pairs if pair.query in tested],
    )


def _counts(part: Sequence[Pair]) -> dict[str, int]:
    queries, passages = {pair.query for pair in part}, {pair.passage for pair in part}
    sizes = sum(map(len, queries)) + sum(map(len, passages))
    return {"pairs": len(part), "queries": len(queries), "passages": len(passages), "bytes": sizes}
