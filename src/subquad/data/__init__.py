"""Files and bytes: what a run reads, how it is split, and in which order. Knows no model and needs only numpy.

The names here are the public ones; everything else is imported from its module.
"""

from subquad.data.corpus import Corpus
from subquad.data.documents import Document
from subquad.data.images import ImageShape
from subquad.data.labelled import LabelColumns, read_labelled
from subquad.data.pairs import PairColumns, read_pairs
from subquad.data.synthetic import Task, parse_task
from subquad.data.tokenizer import Tokenizer, open_tokenizer
from subquad.data.windows import Windows

__all__ = [
    "Corpus",
    "Document",
    "ImageShape",
    "LabelColumns",
    "PairColumns",
    "Task",
    "Tokenizer",
    "Windows",
    "open_tokenizer",
    "parse_task",
    "read_labelled",
    "read_pairs",
]
