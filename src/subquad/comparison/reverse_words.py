"""Texts that are made: lines "word=drow", which ask a model to spell words backwards."""

from __future__ import annotations

import re

from subquad.data.corpus import Corpus
from subquad.data.shuffle import generator

READ = 4_000_000  # bytes of the corpus that words are taken from
LINES = 60_000


def reverse_lines(corpus: Corpus) -> bytes:
    """Lines of words drawn evenly from the distinct lower-case words of 3 to 10 letters; each word falls to one part of the file only.

    The last tenth of the lines holds words that the rest does not: a split by range at 0.9 asks for words never seen.
    """
    text = b"\n".join(document.read(0, min(document.size, READ // len(corpus.documents))).tobytes() for document in corpus.documents)
    words = sorted({word for word in re.findall(rb"[a-z]+", text.lower()) if 3 <= len(word) <= 10})
    random = generator(0, "reverse words")
    shuffled = [words[index] for index in random.permutation(len(words)).tolist()]
    cut = len(shuffled) * 9 // 10
    seen, unseen = shuffled[:cut], shuffled[cut:]
    old, new = LINES * 9 // 10, LINES - LINES * 9 // 10
    chosen = [part[index] for part, lines in ((seen, old), (unseen, new)) for index in random.integers(len(part), size=lines).tolist()]
    return b"".join(word + b"=" + word[::-1] + b"\n" for word in chosen)
