"""Files and bytes: what a run reads, how it is split, and in which order. Knows no model and needs only numpy."""

from subquad.data.corpus import Corpus, Split
from subquad.data.scan import ImageShape, patch_scan
from subquad.data.sources import Document
from subquad.data.tokenizer import Tokenizer, count_bytes, open_tokenizer, span_text, tokenized
from subquad.data.windows import Ids, Span, Windows

__all__ = [
    "Corpus",
    "Document",
    "Ids",
    "ImageShape",
    "Span",
    "Split",
    "Tokenizer",
    "Windows",
    "count_bytes",
    "open_tokenizer",
    "patch_scan",
    "span_text",
    "tokenized",
]
