"""Tasks that ask for an answer the prompt determines: associative recall, majority, counting, functions in context, addition.

The synthetic tasks of the Hyena paper (table 4.1, appendix A.1) and multi-query recall after Zoology (arXiv 2312.04927). A task makes
``examples`` byte strings of one size, a pure function of its fields; no two of them are equal, so none that is held out was trained on.
Each byte has a mark: whether it counts in the training loss, and whether it is an answer, on which the model is evaluated.
``synthetic:recall,vocab=10,length=256`` names a task in place of a path of data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from subquad.config import Config, parse, suggest
from subquad.data.documents import Bytes, Document, InMemory
from subquad.data.shuffle import Integers

PREFIX = "synthetic:"
LEARNED, ANSWER = 1, 2  # bits of a mark
KEYS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz" + bytes(range(128, 192)), dtype=np.uint8)
VALUES = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" + bytes(range(192, 246)), dtype=np.uint8)
QUESTION, NOTHING, END = b">.\n"
MOST_SYMBOLS = 2 + 2 * len(KEYS)

_TRIES = 20  # draws before the different examples count as too few

Random = np.random.Generator


class Examples(NamedTuple):
    """``ids`` (N, size) and a mark beside each, (N, size): LEARNED, ANSWER, both or neither."""

    ids: Bytes
    marks: Bytes

    @classmethod
    def blank(cls, count: int, size: int, learned: bool) -> Examples:
        """Examples of the symbol for nothing, learned everywhere or nowhere."""
        return cls(np.full((count, size), NOTHING, np.uint8), np.full((count, size), LEARNED if learned else 0, np.uint8))


class Task(Config, ABC):
    """``examples`` in all, which are split into train, valid and test like any documents; ``seed`` draws them.

    A byte is a right answer when it is at most ``tolerance`` from the true one.
    """

    examples: int = Field(2500, gt=0)
    seed: int = Field(0, ge=0, lt=1 << 63)
    tolerance: int = Field(0, ge=0)

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of an example."""

    @abstractmethod
    def draw(self, count: int, random: Random) -> Examples:
        """That many examples, among which some may be equal."""

    def make(self) -> Examples:
        """All examples, no two of them equal. Raises ``ValueError`` when the task does not have so many."""
        random = np.random.Generator(np.random.PCG64(self.seed))
        examples = self.draw(self.examples, random)
        for _ in range(_TRIES):
            _, first = np.unique(examples.ids, axis=0, return_index=True)
            again = np.setdiff1d(np.arange(self.examples), first)
            if not again.size:
                return examples
            fresh = self.draw(again.size, random)
            examples.ids[again], examples.marks[again] = fresh.ids, fresh.marks
        raise ValueError(f"the task has fewer than {self.examples} different examples: lower examples, or make them longer")


class _Sized(Task):
    """A task on symbols: ``vocab`` of them with the two that stand for a question and for nothing, in examples of ``length`` bytes."""

    vocab: int = Field(10, ge=6, le=MOST_SYMBOLS)
    length: int = Field(256, ge=8)

    @property
    def size(self) -> int:
        return self.length

    @property
    def symbols(self) -> int:
        """Symbols without those two."""
        return self.vocab - 2

    @property
    def even_length(self) -> int:
        """The length, of a task made of pairs."""
        if self.length % 2:
            raise ValueError(f"an example consists of pairs, so its length must be even, got {self.length}: use {self.length + 1}")
        return self.length


class Recall(_Sized):
    """Associative recall, ``a1b3a1c2>b3``: the value that a key had. Half of the symbols are keys, half values.

    Each example has its own map from keys to values, drawn evenly, as are the keys of its pairs; the queried key is one that occurred.
    As in the official protocol, training counts every byte, and evaluation the answer alone.
    """

    def draw(self, count: int, random: Random) -> Examples:
        pairs, keys, row = (self.even_length - 4) // 2, self.symbols // 2, np.arange(count)
        value_of = random.integers(self.symbols - keys, size=(count, keys))
        key = random.integers(keys, size=(count, pairs))
        occurred = np.zeros((count, keys), dtype=bool)
        np.put_along_axis(occurred, key, True, 1)
        query = np.where(occurred, random.random((count, keys)), -1).argmax(1)
        examples = Examples.blank(count, self.size, learned=True)
        examples.ids[:, : 2 * pairs : 2] = KEYS[key]
        examples.ids[:, 1 : 2 * pairs : 2] = VALUES[np.take_along_axis(value_of, key, 1)]
        examples.ids[:, -4:] = np.stack((np.full(count, QUESTION), KEYS[query], VALUES[value_of[row, query]], np.full(count, END)), 1)
        examples.marks[:, -2] |= ANSWER
        return examples


class MultiRecall(_Sized):
    """Multi-query recall, ``a1b3c2....b3..a1``: ``pairs`` different keys with their values, then ``queries`` of them at random places.

    No key is queried twice, so an answer is as far back as its pair. Only answers are learned and evaluated.
    """

    vocab: int = Field(64, ge=6, le=MOST_SYMBOLS)
    pairs: int = Field(16, gt=0)
    queries: int | None = Field(None, gt=0)

    def draw(self, count: int, random: Random) -> Examples:
        keys, queries, slots = self.symbols // 2, self.queries or self.pairs, self.even_length // 2 - self.pairs
        if self.pairs > keys or queries > self.pairs or queries > slots:
            raise ValueError(
                f"expected queries <= pairs <= {keys} keys (vocab) and room for the queries behind the pairs ({slots} places), "
                f"got {queries} queries of {self.pairs} pairs: change pairs, queries, vocab or length"
            )
        key = KEYS[_distinct(count, keys, self.pairs, random)]
        value = VALUES[random.integers(self.symbols - keys, size=(count, self.pairs))]
        query = _distinct(count, self.pairs, queries, random)
        places = 2 * (self.pairs + _distinct(count, slots, queries, random))
        examples = Examples.blank(count, self.size, learned=False)
        examples.ids[:, : 2 * self.pairs : 2], examples.ids[:, 1 : 2 * self.pairs : 2] = key, value
        np.put_along_axis(examples.ids, places, np.take_along_axis(key, query, 1), 1)
        np.put_along_axis(examples.ids, places + 1, np.take_along_axis(value, query, 1), 1)
        np.put_along_axis(examples.marks, places + 1, np.uint8(LEARNED | ANSWER), 1)
        return examples


class Majority(_Sized):
    """``aggcgfg>g``: the most frequent letter. How frequent each is, each example draws evenly from the simplex; there are no ties.

    Only the answer is learned and evaluated.
    """

    def draw(self, count: int, random: Random) -> Examples:
        examples = Examples.blank(count, self.size, learned=False)
        for row in range(count):
            first = second = 0
            while first == second:
                letters = random.choice(self.symbols, self.size - 3, p=random.dirichlet(np.ones(self.symbols)))
                often = np.bincount(letters, minlength=self.symbols)
                second, first = np.sort(often)[-2:]
            examples.ids[row, :-3], examples.ids[row, -2] = _letters(letters), _letters(often.argmax())
        return _with_question(examples)


class Counting(_Sized):
    """``abbbacb>4``: how often the last letter occurs, evenly 1 to ``most`` times, at random places; the others are drawn evenly.

    Only the answer is learned and evaluated.
    """

    most: int = Field(9, gt=0, lt=len(VALUES))

    def draw(self, count: int, random: Random) -> Examples:
        room = self.size - 3
        times = random.integers(1, min(self.most, room) + 1, size=(count, 1))
        letter = random.integers(self.symbols, size=(count, 1))
        others = (letter + random.integers(1, self.symbols, size=(count, room))) % self.symbols
        same = _distinct(count, room - 1, room - 1, random) < times - 1
        examples = Examples.blank(count, self.size, learned=False)
        examples.ids[:, :-3] = _letters(np.where(np.pad(same, ((0, 0), (0, 1)), constant_values=True), letter, others))
        examples.ids[:, -2] = VALUES[times[:, 0]]
        return _with_question(examples)


class Functions(Task):
    """Linear functions in context: x[0], f(x[0]), ..., x[n], f(x[n]) with f(x) = w·x / √dims; x and w are normal, w of each example.

    A number is one byte, of ``levels`` even levels from -3 to 3; f is of the x that the bytes say. Every f(x) is learned, the last one
    evaluated: right within ``tolerance`` levels.
    """

    dims: int = Field(1, gt=0)
    length: int = Field(128, gt=0)
    levels: int = Field(64, gt=1, le=256)
    tolerance: int = Field(2, ge=0)

    @property
    def size(self) -> int:
        if self.length % (self.dims + 1):
            raise ValueError(
                f"an example consists of points of dims + 1 = {self.dims + 1} bytes, which must divide its length, got length "
                f"{self.length}: change one of them"
            )
        return self.length

    def draw(self, count: int, random: Random) -> Examples:
        points = self.size // (self.dims + 1)
        examples = Examples.blank(count, self.size, learned=False)
        at, marks = (part.reshape(count, points, self.dims + 1) for part in examples)
        at[..., :-1] = self.level(random.normal(size=(count, points, self.dims)))
        weights = random.normal(size=(count, self.dims, 1))
        at[..., -1] = self.level((self.number(at[..., :-1]) @ weights)[..., 0] / math.sqrt(self.dims))
        marks[..., -1] = LEARNED
        marks[:, -1, -1] |= ANSWER
        return examples

    def level(self, number: npt.NDArray[np.float64]) -> Bytes:
        """The byte nearest to a number."""
        return np.rint((number.clip(-3, 3) + 3) / 6 * (self.levels - 1)).astype(np.uint8)

    def number(self, level: Bytes) -> npt.NDArray[np.float64]:
        """The number that a byte stands for."""
        return level / (self.levels - 1) * 6 - 3


class Addition(Task):
    """``1239541077``: two numbers of ``digits`` digits and their sum of one more, the digits of which are learned and evaluated."""

    digits: int = Field(3, gt=0, le=18)

    @property
    def size(self) -> int:
        return 3 * self.digits + 1

    def draw(self, count: int, random: Random) -> Examples:
        terms = random.integers(10**self.digits, size=(2, count))
        examples = Examples.blank(count, self.size, learned=False)
        first = 0
        for number, digits in ((terms[0], self.digits), (terms[1], self.digits), (terms.sum(0), self.digits + 1)):
            examples.ids[:, first : first + digits] = VALUES[number[:, None] // 10 ** np.arange(digits)[::-1] % 10]
            first += digits
        examples.marks[:, 2 * self.digits :] = LEARNED | ANSWER
        return examples


TASKS: dict[str, type[Task]] = {
    "recall": Recall,
    "multi-recall": MultiRecall,
    "majority": Majority,
    "counting": Counting,
    "functions": Functions,
    "addition": Addition,
}


def is_task(path: str | Path) -> bool:
    """Whether it names a task rather than files."""
    return str(path).startswith(PREFIX)


def parse_task(path: str | Path) -> Task:
    """The task that ``synthetic:NAME,key=value,...`` names. Raises ``ValueError`` for an unknown name, key or value."""
    name, *settings = str(path).removeprefix(PREFIX).split(",")
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r} in {str(path)!r}: {suggest(name, TASKS)}")
    values: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key in values:
            raise ValueError(f"expected {PREFIX}{name},key=value,... with each key once, got {str(path)!r}")
        values[key] = value
    return parse(TASKS[name], values)


def task_path(task: Task) -> str:
    """How a task is named, the fields that are not the default's spelt out: the inverse of ``parse_task``."""
    name = next(name for name, kind in TASKS.items() if type(task) is kind)
    return ",".join([PREFIX + name, *(f"{key}={value}" for key, value in task.model_dump(exclude_defaults=True).items())])


def task_documents(task: Task) -> list[Document]:
    """Each example as a document with marks. Raises ``ValueError`` when the task's fields do not fit each other."""
    examples = task.make()
    name, size = task_path(task).removeprefix(PREFIX).split(",")[0], task.size
    ids, marks = InMemory(examples.ids.reshape(-1)), InMemory(examples.marks.reshape(-1))
    digits = len(str(task.examples - 1))
    return [Document(f"{name}/{row:0{digits}d}", size, ids, row * size, marks=marks) for row in range(task.examples)]


def _with_question(examples: Examples) -> Examples:
    """The form of a single question about all that comes before: ``...>answer``, and the end of the line."""
    examples.ids[:, -3], examples.ids[:, -1] = QUESTION, END
    examples.marks[:, -2] = LEARNED | ANSWER
    return examples


def _letters(index: Integers | np.intp) -> Bytes:
    """Symbols of a task without values: keys, then values."""
    return np.concatenate((KEYS, VALUES))[index]


def _distinct(count: int, among: int, number: int, random: Random) -> Integers:
    """(count, number) different integers of 0..among-1 in each row, in random order."""
    return random.random((count, among)).argsort(1)[:, :number]
