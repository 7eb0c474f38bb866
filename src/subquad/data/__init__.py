"""Files and bytes: what a run reads, how it is split, and in which order. Knows no model and needs only numpy."""

from subquad.data.corpus import Corpus, Split
from subquad.data.scan import ImageShape, patch_scan
from subquad.data.sources import Document
from subquad.data.windows import Span, Windows

__all__ = ["Corpus", "Document", "ImageShape", "Span", "Split", "Windows", "patch_scan"]
