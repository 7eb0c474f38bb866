"""Tasks: every answer follows from its prompt, no example occurs twice, and a name says all that repeats them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subquad.data.batches import Batches
from subquad.data.corpus import Corpus
from subquad.data.synthetic import ANSWER, LEARNED, TASKS, Functions, Task, parse_task, task_path

SPECS = {
    "recall": "synthetic:recall,vocab=12,length=32,examples=300",
    "multi-recall": "synthetic:multi-recall,vocab=30,length=64,pairs=8,queries=5,examples=300",
    "majority": "synthetic:majority,length=24,examples=300",
    "counting": "synthetic:counting,length=24,most=12,examples=300",
    "functions": "synthetic:functions,dims=3,length=32,examples=300",
    "addition": "synthetic:addition,digits=3,examples=300",
}


def rows(task: Task) -> list[tuple[bytes, list[int]]]:
    """Each example's bytes and the positions of its answers."""
    found = task.make()
    return [(ids.tobytes(), np.flatnonzero(marks & ANSWER).tolist()) for ids, marks in zip(found.ids, found.marks, strict=True)]


def test_every_task_is_tested() -> None:
    assert SPECS.keys() == TASKS.keys()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_examples_are_a_function_of_the_name_and_none_occurs_twice(spec: str) -> None:
    task = parse_task(spec)
    one, again, other = task.make(), parse_task(task_path(task)).make(), parse_task(f"{spec},seed=1").make()
    assert one.ids.shape == one.marks.shape == (300, task.size)
    assert (one.ids == again.ids).all() and (one.marks == again.marks).all() and (one.ids != other.ids).any()
    assert len({row.tobytes() for row in one.ids}) == 300
    assert ((one.marks & ANSWER) > 0).any(1).all() and (one.marks[(one.marks & ANSWER) > 0] & LEARNED).all(), "an answer is learned"


def test_recall_asks_for_a_key_that_occurred_and_counts_every_byte() -> None:
    for text, (answer,) in rows(parse_task(SPECS["recall"])):
        pairs, ask, question = text[:-4], text[-4:-3], text[-3:-1]
        value_of = dict(zip(pairs[::2], pairs[1::2], strict=True))
        assert ask + text[-1:] == b">\n" and answer == 30 and value_of[question[0]] == question[1]
        assert all(value_of[key] == value for key, value in zip(pairs[::2], pairs[1::2], strict=True)), "one value a key"
        assert set(pairs[::2]) <= set(b"abcde") and set(pairs[1::2]) <= set(b"01234")
    assert (parse_task(SPECS["recall"]).make().marks & LEARNED).all()


def test_the_key_asked_for_is_even_over_those_that_occurred() -> None:
    asked = [text[-3] for text, _ in rows(parse_task("synthetic:recall,vocab=10,length=64,examples=4000"))]
    assert np.bincount(asked)[97:] == pytest.approx([1000] * 4, abs=120)


def test_multi_recall_asks_for_different_keys_that_each_occurred_once() -> None:
    for text, answers in rows(parse_task(SPECS["multi-recall"])):
        pairs, rest = text[:16], text[16:]
        value_of = dict(zip(pairs[::2], pairs[1::2], strict=True))
        asked = [text[place - 1] for place in answers]
        assert len(value_of) == 8 and len(set(asked)) == 5 == len(answers)
        assert all(value_of[text[place - 1]] == text[place] for place in answers)
        assert rest.count(b".") == len(rest) - 10


def test_majority_has_one_most_frequent_letter() -> None:
    for text, (answer,) in rows(parse_task(SPECS["majority"])):
        letters = text[:-3]
        often = sorted(letters.count(letter) for letter in set(letters))
        assert letters.count(text[answer]) == often[-1] and (len(often) == 1 or often[-2] < often[-1])


def test_counting_counts_the_last_letter_evenly() -> None:
    counts = []
    for text, (answer,) in rows(parse_task(SPECS["counting"])):
        counts.append(b"0123456789ABC".index(text[answer]))
        assert text[:-3].count(text[-4]) == counts[-1]
    assert set(counts) == set(range(1, 13))


def test_addition_adds() -> None:
    for text, answers in rows(parse_task(SPECS["addition"])):
        assert int(text[:3]) + int(text[3:6]) == int(text[6:]) and answers == [6, 7, 8, 9]


def test_functions_are_linear_within_the_rounding_of_their_bytes() -> None:
    task = parse_task(SPECS["functions"])
    assert isinstance(task, Functions)
    found = task.make()
    points = task.number(found.ids.reshape(300, 8, 4))
    x, y = points[..., :-1], points[..., -1]
    inside = (np.abs(y) < 3).all(1)
    fitted = [np.linalg.lstsq(x[row], y[row], rcond=None) for row in np.flatnonzero(inside)]
    errors = [x[row] @ weights - y[row] for row, (weights, *_) in zip(np.flatnonzero(inside), fitted, strict=True)]
    assert inside.sum() > 150 and np.abs(errors).max() < 6 / 63
    assert (found.marks.reshape(300, 8, 4)[..., :-1] == 0).all() and task.tolerance == 2 and parse_task(SPECS["recall"]).tolerance == 0


@settings(deadline=None)
@given(st.integers(2, 256), st.floats(-3, 3))
def test_a_number_comes_back_within_half_a_level(levels: int, number: float) -> None:
    task = Functions(levels=levels)
    assert abs(task.number(task.level(np.array([number])))[0] - number) <= 3 / (levels - 1) + 1e-9


def test_marks_lie_where_their_bytes_do() -> None:
    corpus = Corpus.open(["synthetic:multi-recall,vocab=30,length=64,pairs=8,queries=5,examples=100"])
    split = corpus.split((0.8, 0.1, 0.1))
    assert [len(part) for part in (split.train, split.valid, split.test)] == [80, 10, 10] and split.by == "document"
    assert corpus.task is not None
    whole = corpus.task.make()
    marks_of = {ids.tobytes(): marks for ids, marks in zip(whole.ids, whole.marks, strict=True)}
    batches = Batches(split.train, 64, seed=3)
    for batch in (batches.batch(70, 40), batches.in_order(), batches.batch(5, 8).rows(2, 4)):
        assert batch.marks is not None and batch.answers is not None
        assert all((marks_of[ids.tobytes()] == marks).all() for ids, marks in zip(batch.ids, batch.marks, strict=True))
        assert batch.count(batch.answers, batch.whole) == 5 * len(batch.ids)
    assert corpus.record()["task"]["pairs"] == 8


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("synthetic:recal", "did you mean 'recall'"),
        ("synthetic:recall,lenght=8", "did you mean 'length'"),
        ("synthetic:recall,length", "key=value"),
        ("synthetic:recall,length=32,length=32", "each key once"),
        ("synthetic:recall,length=33", "use 34"),
        ("synthetic:recall,vocab=500", "less than or equal to 182"),
        ("synthetic:addition,digits=1", "different examples: lower examples"),
        ("synthetic:multi-recall,pairs=40", "expected queries <= pairs <= 31 keys"),
        ("synthetic:functions,dims=2", "must divide its length, got length 128"),
    ],
)
def test_a_wrong_task_is_refused_in_words(path: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Corpus.open([path])


def test_a_task_stands_alone_and_is_split_whole() -> None:
    with pytest.raises(ValueError, match="name it alone"):
        Corpus.open(["synthetic:recall", "book.txt"])
    with pytest.raises(ValueError, match="cannot be split by 'range'"):
        Corpus.open(["synthetic:recall,examples=10"]).split(by="range")
