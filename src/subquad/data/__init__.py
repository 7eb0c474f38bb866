"""Files and bytes: what a run reads, how it is split, and in which order. Knows no model and needs only numpy."""

from subquad.data.batches import Batch, Batches, Numbers, Passages
from subquad.data.characters import Characters
from subquad.data.corpus import Corpus, Form, Split
from subquad.data.documents import Document
from subquad.data.folders import class_of
from subquad.data.images import ImageShape, patch_scan
from subquad.data.labelled import Example, LabelColumns, Labelled, read_labelled, read_table
from subquad.data.masking import MaskConfig, MaskedIds, add_special_tokens, mask_ids
from subquad.data.pairs import Pair, PairColumns, Pairs, read_pairs
from subquad.data.split import check_fractions
from subquad.data.subwords import Reader, Subwords, open_reader, read_subwords, stretches, text_ids
from subquad.data.synthetic import TASKS, Task, is_task, parse_task, task_path
from subquad.data.tables import table_of
from subquad.data.tokenizer import Codec, Tokenizer, count_bytes, open_tokenizer, read_tokenizer, span_text, tokenized
from subquad.data.windows import Ids, Span, Windows, whole_span

__all__ = [
    "TASKS",
    "Batch",
    "Batches",
    "Characters",
    "Codec",
    "LabelColumns",
    "check_fractions",
    "Corpus",
    "Document",
    "Example",
    "Form",
    "Ids",
    "ImageShape",
    "Labelled",
    "MaskConfig",
    "MaskedIds",
    "Numbers",
    "Pair",
    "PairColumns",
    "Pairs",
    "Passages",
    "Reader",
    "Span",
    "Split",
    "Subwords",
    "text_ids",
    "Task",
    "Tokenizer",
    "Windows",
    "class_of",
    "count_bytes",
    "add_special_tokens",
    "is_task",
    "mask_ids",
    "open_reader",
    "open_tokenizer",
    "parse_task",
    "patch_scan",
    "read_labelled",
    "read_pairs",
    "read_subwords",
    "read_table",
    "read_tokenizer",
    "table_of",
    "span_text",
    "stretches",
    "task_path",
    "tokenized",
    "whole_span",
]
