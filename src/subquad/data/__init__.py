"""Files and bytes: what a run reads, how it is split, and in which order. Knows no model and needs only numpy."""

from subquad.data.batches import Batch, Batches
from subquad.data.corpus import Corpus, Split
from subquad.data.scan import ImageShape, patch_scan
from subquad.data.sources import Document
from subquad.data.synthetic import TASKS, Task, is_task, parse_task, task_path
from subquad.data.tokenizer import Tokenizer, count_bytes, open_tokenizer, span_text, tokenized
from subquad.data.windows import Ids, Span, Windows

__all__ = [
    "TASKS",
    "Batch",
    "Batches",
    "Corpus",
    "Document",
    "Ids",
    "ImageShape",
    "Span",
    "Split",
    "Task",
    "Tokenizer",
    "Windows",
    "count_bytes",
    "is_task",
    "open_tokenizer",
    "parse_task",
    "patch_scan",
    "span_text",
    "task_path",
    "tokenized",
]
