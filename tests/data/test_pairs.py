"""Tables of pairs: the same from every kind of table, splits that part no query from its pairs, errors that name the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from subquad.data.pairs import Pair, PairColumns, Pairs, read_pairs

ALL = (1.0, 0.0, 0.0)


def test_every_kind_of_table_holds_the_same(tmp_path: Path) -> None:
    rows = [("what", "this é"), ("what", "that"), ("why", "this é")]
    (tmp_path / "a.tsv").write_text("query\tpassage\n" + "".join(f"{one}\t{other}\n" for one, other in rows))
    (tmp_path / "a.csv").write_text("id,passage,query\n" + "".join(f"7,{other},{one}\n" for one, other in rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"query": one, "passage": other}) + "\n" for one, other in rows))
    (tmp_path / "b.txt").write_text("".join(f"{other}\t{one}\n" for one, other in rows))
    numbered = PairColumns(query=1, passage=0, table="tsv")
    for name, columns in (("a.tsv", None), ("a.csv", None), ("a.jsonl", None), ("b.txt", numbered)):
        found = read_pairs([str(tmp_path / name)], columns=columns, fractions=ALL)
        assert found.train == [Pair(one.encode(), other.encode()) for one, other in rows] and not found.valid + found.test
        assert found.record()["parts"]["train"] == {"pairs": 3, "queries": 2, "passages": 2, "bytes": 18}


def test_a_split_is_of_queries(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("query\tpassage\n" + "".join(f"q{number % 40}\tp{number}\n" for number in range(120)))
    found = read_pairs([str(path)], fractions=(0.7, 0.2, 0.1), seed=3)
    parts = [{pair.query for pair in part} for part in (found.train, found.valid, found.test)]
    assert list(map(len, parts)) == [28, 8, 4] and len(set.union(*parts)) == 40
    assert sum(map(len, (found.train, found.valid, found.test))) == 120
    assert read_pairs([str(path)], fractions=(0.7, 0.2, 0.1), seed=3) == found
    other = read_pairs([str(path)], fractions=(0.7, 0.2, 0.1), seed=4)
    assert other != found and other.fingerprint != found.fingerprint
    held_out = read_pairs([str(path)], [str(path)])
    assert len(held_out.train) == len(held_out.valid) == 120 and not held_out.test
    assert Pairs([Pair(b"a", b"bc")], [], [], []).fingerprint != Pairs([Pair(b"ab", b"c")], [], [], []).fingerprint


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.tsv",
            "question\tpassage\nx\ty\n",
            r"line 2: expected a column 'query', got 'question', .*objective\.columns\.query=question",
        ),
        ("a.tsv", "query\tpassage\nx\t\n", r"a\.tsv, line 2: 'passage' is empty, and an empty text has no embedding"),
        ("a.tsv", "query\tpassage\n", r"a\.tsv has no line of data below its header: add lines with queries and passages"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: expected a JSON object"),
        ("a.txt", "query\tpassage\nx\ty\n", r"a\.txt is not a table by its name: .*objective\.columns\.table"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_pairs([str(tmp_path / name)])


def test_columns_are_of_one_kind() -> None:
    with pytest.raises(ValueError, match="all names or all numbers"):
        PairColumns(query=0)
