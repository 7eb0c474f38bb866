"""The task "reverse": lines "word=drow", which make a model spell words backwards."""

from __future__ import annotations

import re

from subquad.data.corpus import Corpus
from subquad.data.shuffle import generator

READ_BYTES = 4_000_000  # of the corpus: the words are those in them
LINES = 60_000


def reverse_lines(corpus: Corpus) -> bytes:
    """Lines of words drawn evenly from the corpus's distinct words of 3 to 10 letters, in lower case.

    The last tenth of the lines has words that the rest has not: with a split by range at 0.9 the held-out words are new to the model.
    """
    text = b"\n".join(document.read(0, min(document.size, READ_BYTES // len(corpus.documents))).tobytes() for document in corpus.documents)
    words = sorted({word for word in re.findall(rb"[a-z]+", text.lower()) if 3 <= len(word) <= 10})
    random = generator(0, "reverse words")
    shuffled = [words[index] for index in random.permutation(len(words)).tolist()]
    cut, training_lines = len(shuffled) * 9 // 10, LINES * 9 // 10
    parts = ((shuffled[:cut], training_lines), (shuffled[cut:], LINES - training_lines))
    drawn = [part[index] for part, count in parts for index in random.integers(len(part), size=count).tolist()]
    return b"".join(word + b"=" + word[::-1] + b"\n" for word in drawn)
