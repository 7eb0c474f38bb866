"""Pairs: tables of a query and a passage that answers it, in parts for training, validation and test.

A query may have several passages, each on its own line, and a passage may answer several queries. A split by fractions is of queries:
all pairs of one query are in the same part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from subquad.data.documents import Document
from subquad.data.files import open_documents
from subquad.data.rows import Place, TableColumns, as_bytes, cell, read_rows
from subquad.data.shuffle import Integers
from subquad.data.split import Fractions, draw_parts
from subquad.data.tables import TableData, read_parts, read_tables

_NAMING = "objective.columns.query=question"


class PairColumns(TableColumns):
    """Where a table has its queries and passages. ``negative`` is a passage that does not answer the query."""

    COLUMNS = ("query", "passage", "negative")

    query: str | int = "query"
    passage: str | int = "passage"
    negative: str | int | None = None


@dataclass(frozen=True, order=True, slots=True)
class Pair:
    """A query and its passage in bytes, and one that is not its passage, if there is one; ``where`` it was read does not count."""

    query: bytes
    passage: bytes
    negative: bytes | None = None
    where: Place = field(default=Place(""), compare=False)

    @property
    def fields(self) -> tuple[bytes, bytes, bytes | None]:
        """Its value."""
        return self.query, self.passage, self.negative

    @property
    def texts(self) -> tuple[bytes, ...]:
        """The texts that there are, the query first."""
        return tuple(text for text in self.fields if text is not None)


@dataclass(frozen=True)
class Pairs(TableData[Pair]):
    """Pairs in three parts."""

    def summary(self, part: Sequence[Pair]) -> dict[str, Any]:
        """The pairs, their queries and passages, and the bytes of these."""
        queries, passages = {pair.query for pair in part}, {pair.passage for pair in part}
        size = sum(map(len, queries)) + sum(map(len, passages))
        return {"pairs": len(part), "queries": len(queries), "passages": len(passages), "bytes": size}


def read_pairs(
    paths: Sequence[str],
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    columns: PairColumns | None = None,
    fractions: Fractions = (0.9, 0.05, 0.05),
    seed: int = 0,
) -> Pairs:
    """Reads tables; what is in ``valid`` and ``test`` is held out, and otherwise the fractions of the queries of ``paths``.

    With files for ``valid`` and none for ``test`` all of ``paths`` is for training. ``ValueError`` names a file and line that cannot be
    read, a missing column, an empty text and an empty file.
    """
    read_one = partial(_read, columns=columns or PairColumns())
    parts = read_parts(
        lambda part: read_tables(open_documents(part)[0], read_one, "queries and passages"), _draw, paths, valid, test, fractions, seed
    )
    return Pairs(*parts, [str(path) for path in (*paths, *valid, *test)])


def _read(document: Document, columns: PairColumns) -> list[Pair]:
    wanted = [column for column in (columns.query, columns.passage, columns.negative) if column is not None]
    pairs = []
    for where, row in read_rows(document, columns, "objective.columns"):
        texts = [cell(row, column, where, _NAMING) for column in wanted]
        if "" in texts:
            raise ValueError(f"{where}: {wanted[texts.index('')]!r} is empty, and an empty text has no embedding: leave the line out")
        query, passage, *negative = map(as_bytes, texts)
        pairs.append(Pair(query, passage, negative[0] if negative else None, where))
    return pairs


def _draw(pairs: list[Pair], fractions: Fractions, random: np.random.Generator) -> Integers:
    queries = {query: number for number, query in enumerate(dict.fromkeys(pair.query for pair in pairs))}
    return draw_parts(len(queries), fractions, random)[[queries[pair.query] for pair in pairs]]
