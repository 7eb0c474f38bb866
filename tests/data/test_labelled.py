"""Labelled texts: the same examples from every kind of table, stratified splits, and errors that name the file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from subquad.config import parse
from subquad.data.corpus import Corpus
from subquad.data.files import open_documents
from subquad.data.labelled import Example, LabelColumns, read_labelled, read_table
from subquad.data.rows import table_of

ROWS = [("a film", "good"), ('"quoted" words', "bad"), ("café 東京", "good"), ("", "bad"), ("x" * 200_000, "good")]


def write(folder: Path, rows: list[tuple[str, str]] = ROWS, kind: str = "tsv", head: tuple[str, str] | None = ("text", "label")) -> str:
    path = folder / f"data.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows) + "\n\n", encoding="utf-8")
        return str(path)
    lines = ([head] if head else []) + rows
    if kind == "csv":
        box = io.StringIO(newline="")
        csv.writer(box).writerows(lines)
        path.write_bytes(box.getvalue().encode())
    else:
        path.write_bytes("".join(f"{one}\t{other}\n" for one, other in lines).encode())
    return str(path)


def read(path: str, columns: LabelColumns | None = None, labels: bool = True) -> list[Example]:
    return [example for document in open_documents([path])[0] for example in read_table(document, columns or LabelColumns(), labels)]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_every_kind_of_table_holds_the_same(tmp_path: Path, kind: str) -> None:
    limit = csv.field_size_limit()
    assert read(write(tmp_path, kind=kind)) == [Example(text.encode(), label) for text, label in ROWS]
    assert csv.field_size_limit() == limit
    packed = tmp_path / f"packed.{kind}.gz"
    packed.write_bytes(gzip.compress((tmp_path / f"data.{kind}").read_bytes()))
    assert read(str(packed)) == read(str(tmp_path / f"data.{kind}"))


def test_columns_by_number_and_a_second_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('1,"one, two",three\r\n0,four,"five\nsix"\r\n')
    columns = LabelColumns(text=1, label=0, text_pair=2, separator=" | ")
    assert read(str(tmp_path / "a.csv"), columns) == [Example(b"one, two | three", "1"), Example(b"four | five\nsix", "0")]
    with pytest.raises(ValueError, match="all names or all numbers"):
        LabelColumns(text=1)


def test_keys_of_earlier_versions_load() -> None:
    columns = parse(LabelColumns, {"text": "a", "label": "b", "second": "c", "joint": " "})
    assert columns == LabelColumns(text="a", label="b", text_pair="c", separator=" ")


def test_labels_may_be_numbers_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": true}\n{"text": "c"}\n{"text": "d", "label": null}\n')
    assert [example.label for example in read(str(path), labels=False)] == ["1", "true", None, None]


def test_bytes_that_are_no_text_stay(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbftext\tlabel\r\n\xff\xfe\x85 \x0b\tx\r\n")
    assert read(str(tmp_path / "a.tsv")) == [Example(b"\xff\xfe\x85 \x0b", "x")]


def test_a_split_gives_each_class_its_share(tmp_path: Path) -> None:
    rows = [(f"text {number}", "rare" if number % 10 == 0 else "common") for number in range(200)]
    path = write(tmp_path, rows)
    parts = read_labelled([path], fractions=(0.7, 0.2, 0.1), seed=3)
    assert parts.classes == ("common", "rare")
    for part, share in ((parts.train, 0.7), (parts.valid, 0.2), (parts.test, 0.1)):
        assert Counter(example.label for example in part) == {"common": round(180 * share), "rare": round(20 * share)}
    assert sorted(parts.train + parts.valid + parts.test) == sorted(Example(text.encode(), label) for text, label in rows)
    again, other = (read_labelled([path], fractions=(0.7, 0.2, 0.1), seed=seed) for seed in (3, 4))
    assert again == parts and again.fingerprint == parts.fingerprint
    assert other.valid != parts.valid and other.fingerprint != parts.fingerprint
    size = sum(len(example.text) for example in parts.test)
    assert parts.record()["parts"]["test"] == {"texts": 20, "bytes": size, "labels": {"common": 18, "rare": 2}}


def test_files_may_be_the_parts(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [(f"{name} {number}", str(number % 2)) for number in range(10)])
    train, valid, test = (str(tmp_path / name / "data.tsv") for name in ("train", "valid", "test"))
    parts = read_labelled([train], [valid], [test])
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (10, 10, 10)
    parts = read_labelled([train], [valid])
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (10, 10, 0)
    parts = read_labelled([train], test=[test], fractions=(0.6, 0.4, 0.0))
    assert (len(parts.train), len(parts.valid), parts.test[0].text) == (6, 4, b"test 0")
    with pytest.raises(ValueError, match="a text of the train part has the label '1', expected one of 0, 2"):
        read_labelled([train], [valid], classes=["0", "2"])
    (tmp_path / "valid" / "data.tsv").write_text("text\tlabel\nx\tother\n")
    with pytest.raises(ValueError, match="a text of the valid part has the label 'other', expected one of 0, 1"):
        read_labelled([train], [valid])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.tsv",
            "sentence\tlabel\nx\ty\n",
            r"a\.tsv, line 2: expected a column 'text', got 'sentence', 'label': .*objective\.columns\.text",
        ),
        ("a.tsv", "text\tlabel\nx\n", r"a\.tsv, line 2: expected 2 columns as in its first line, got 1"),
        ("a.tsv", "text\tlabel\ttext\nx\ty\tz\n", r"a\.tsv, line 1: two columns are called 'text'"),
        ("a.tsv", "text\tlabel\n", r"a\.tsv has no line of data"),
        ("a.csv", 'text,label\n"x,y\n', r"a\.csv, line 2: a quote opens here and never closes"),
        ("a.csv", 'text,label\n"a\nb","x"\nc,d\n"e ""f"" g","h\ni,j\nk,l\n', r"a\.csv, line 5: a quote opens here"),
        ("a.csv", 'text,label\n"a\nb",x\n"c" d,y\n', r"a\.csv, line 4: not valid CSV"),
        (
            "a.jsonl",
            '{"text": "a", "label": "b"}\n{"text": "\\ud800", "label": "b"}\n',
            r"line 2: 'text' holds .ud800, half of a surrogate",
        ),
        ("a.jsonl", '{"text": "a", "label": "\\udc80x"}\n', r"line 1: 'label' holds .udc80, half of a surrogate pair"),
        ("a.jsonl", '{"text": "a", "label": ' + "[" * 100_000 + "\n", r"line 1: not valid JSON \(it nests deeper"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', r"line 1: expected a text or a number in 'label', got NaN"),
        ("a.tsv", "text\tlabel\nx\ty\nz\t\n", r"a\.tsv, line 3: the label in 'label' is '', which is not a class"),
        ("a.tsv", "text\tlabel\nx\tnan\n", r"a\.tsv, line 2: the label in 'label' is 'nan'"),
        ("a.jsonl", '{"text": "a", "label": " "}\n', r"line 1: the label in 'label' is ' '"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"\n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: expected a JSON object"),
        ("a.jsonl", '{"text": ["a"], "label": 1}\n', r"line 1: expected a text or a number in 'text', got \[\"a\"\]"),
        ("a.jsonl", '{"text": "a"}\n', r"line 1: expected a column 'label', got 'text'"),
        ("a.txt", "text\tlabel\nx\ty\n", r"a\.txt is not a table by its name"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_labelled([str(tmp_path / name)])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_utf16_is_recognised(tmp_path: Path, encoding: str, kind: str) -> None:
    path = Path(write(tmp_path, kind=kind))
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    with pytest.raises(ValueError, match=rf"data\.{kind} is UTF-16, expected UTF-8: convert it"):
        read_labelled([str(path)])


def test_so_many_labels_are_no_classes(tmp_path: Path) -> None:
    rows = [(f"text {number}", f"id {number}") for number in range(200_000)]
    with pytest.raises(ValueError, match=r"200,000 different labels, such as 'id 0', expected classes, at most 10,000: name the column"):
        read_labelled([write(tmp_path, rows)], fractions=(1, 0, 0))


def test_labels_of_nothing_are_missing_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,\nb,x\n")
    assert [example.label for example in read(str(tmp_path / "a.csv"), labels=False)] == [None, "x"]


def test_an_example_knows_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one\ntwo",x\n\nthree,y\n')
    assert [str(example.where) for example in read(str(tmp_path / "a.csv"))] == ["a.csv, line 2", "a.csv, line 5"]


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, labels = zip(*ROWS, strict=True)
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"other": [1] * len(ROWS), "text": texts, "label": labels}), path)
    assert read(str(path)) == [Example(text.encode(), label) for text, label in ROWS]
    assert read(str(path), LabelColumns(text=1, label=2)) == read(str(path))
    assert str(read(str(path))[1].where) == "data.parquet, line 2"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"data\.parquet cannot be read as Parquet after row 0 .*: write it again, or drop its suffix"):
        read(str(path))


def test_parquet_without_its_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for opened in (read, Corpus.open):
        with pytest.raises(ValueError, match=r"a\.parquet is a Parquet file, .* pip install 'subquad\[data\]'"):
            opened(str(tmp_path / "a.parquet"))


def test_tables_by_name() -> None:
    assert [table_of(name) for name in ("a.tsv", "a.CSV.gz", "b/c.jsonl.zst", "d.parquet", "a.txt", "-", "tsv")] == [
        "tsv",
        "csv",
        "jsonl",
        "parquet",
        None,
        None,
        None,
    ]
