"""The section ``data`` of train.yaml: where the data come from, how they are split, and what a sample is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from subquad.config import Config, Paths
from subquad.data.corpus import Corpus, Form
from subquad.data.fasta import is_fasta
from subquad.data.held_out import Way
from subquad.data.images import ImageShape


class DataConfig(Config):
    """``paths`` as ``Corpus.open`` takes them, or tables of texts; ``valid`` and ``test`` name tables that are held out, of which
    ``fractions`` of ``paths`` are otherwise taken. ``split_seed`` None is the run's seed.

    ``format`` is that of ``Corpus.open``: with "text" the texts in ``column`` of tables are documents.

    ``window`` is the number of bytes of a sample, None for an image's size or else the model's context; a longer text of a table is
    truncated to it. ``tokenizer`` makes samples of tokens, which ``window`` then counts: the path of a tokenizer.json, the vocabulary size
    of one to be trained on the training part (byte-level BPE; for an encoder WordPiece), or "dna" for HyenaDNA's characters.

    An objective reads some of these fields; a value for another one is an error.
    """

    paths: Paths = ()
    format: Form = "raw"
    column: str | int = "text"
    split: Way | Literal["auto"] = "auto"
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    split_seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    window: int | None = Field(default=None, gt=0)
    pack: bool = False
    shift: bool = True
    image: ImageShape | None = None
    tokenizer: str | int | None = None
    valid: Paths = ()
    test: Paths = ()

    def open(self, paths: Sequence[str | Path] | None = None) -> Corpus:
        """The documents of a run; or those of other paths, read as the run reads its own and named as they are given."""
        corpus = Corpus.open(self.paths if paths is None else paths, self.image, self.format, self.column, as_given=paths is not None)
        if paths is None and self.tokenizer == "dna" and self.format == "raw" and (found := next(filter(is_fasta, corpus.documents), None)):
            raise ValueError(f"{found.name} is FASTA, whose headers and line breaks are not bases: set data.format=fasta to leave them out")
        return corpus

    @model_validator(mode="after")
    def _reads_text(self) -> DataConfig:
        if self.tokenizer is not None and self.image is not None:
            raise ValueError("images have no tokens: leave out tokenizer, or image")
        if self.column != "text" and self.format != "text":
            raise ValueError(f"column={self.column} is for the texts of tables: set data.format=text too, or leave it out")
        if self.format != "raw" and self.image is not None:
            raise ValueError(f"files are images or {self.format}, not both: leave out format, or image")
        return self
