"""What a verb reads: files found, unpacked and cut into documents or texts as training did it in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.config import override, parse, with_changes
from subquad.data.characters import reads_characters
from subquad.data.config import DataConfig
from subquad.data.corpus import read_records
from subquad.data.documents import Document
from subquad.data.fasta import fasta_documents, is_fasta
from subquad.data.files import open_documents
from subquad.data.folders import class_of
from subquad.data.labelled import Example, LabelColumns, read_table
from subquad.data.rows import Place, table_of
from subquad.run_folder import TOKENIZER, TRAIN
from subquad.training.config import read


def read_documents(
    paths: Sequence[str | Path], run: str | Path | None = None, options: Mapping[str, Any] | None = None
) -> Sequence[Document]:
    """What there is to score under paths, found, unpacked and cut into records as training did it in ``run``, and named as it is given.

    ``options`` are keys of the section ``data`` of train.yaml, such as ``format`` and ``column``, that differ from the run's. Raises
    ``ValueError`` for what cannot be read.
    """
    options = dict(options or {})
    if "format" in options:
        options = {"image": None, **({} if options["format"] == "text" else {"column": "text"}), **options}
    data = with_changes(_data_of(run), options)
    documents = data.open(paths).documents
    return documents if "format" in options or data.image else _records(documents, data, run)


def read_texts(paths: Sequence[str], run: str | Path | None = None, columns: Mapping[str, Any] | None = None) -> list[tuple[str, Example]]:
    """Texts to classify or embed, each with its label where there is one, and a name that says where it stands.

    A table (.tsv, .csv, .jsonl, .parquet) gives a text for each line, in the columns that ``run`` was trained on, changed by ``columns``
    (names and numbers as ``objective.columns`` takes them); if these set ``table``, every path is a table. Any other file, and - for stdin,
    is one text, or one for each record where ``run`` reads FASTA; its label is the name of its folder, where ``run`` was trained on that
    class. A label may be missing unless ``columns`` names its column. Raises ``ValueError`` for a path or line that cannot be read.
    """
    config = read(run) if run is not None and Path(run, TRAIN).is_file() else None
    data = _data_of(run)
    trained = (config.objective.text_columns if config and config.objective else LabelColumns()).model_dump(mode="json") | {"table": None}
    if data.format == "text" and isinstance(data.column, str):
        trained["text"] = data.column
    classes = frozenset(config.model.labels if config else ())
    named = parse(LabelColumns, override(trained, columns or {}))
    labelled = "label" in (columns or {})
    naming = "--text sentence" + (" --label mood" if labelled else "")
    texts: list[tuple[str, Example]] = []
    for document in open_documents(paths, as_given=True).documents:
        if named.table or table_of(document.name):
            rows = [(example.where.name, example) for example in read_table(document, named, labels=labelled, naming=naming)]
            if not rows:
                raise ValueError(f"{document.name} has no texts: expected lines below its header, or leave it out")
            texts += rows
            continue
        for text in _records(read_records([document], data.format), data, run):
            label = class_of(text.name)
            texts.append((text.name, Example(text.read().tobytes(), label if label in classes else None, Place(text.name))))
    return texts


def _data_of(run: str | Path | None) -> DataConfig:
    """How a run reads its data; where it does not say, files are read as they are."""
    return read(run).data if run is not None and Path(run, TRAIN).is_file() else DataConfig()


def _records(documents: Sequence[Document], data: DataConfig, run: str | Path | None) -> list[Document]:
    """The records of what is FASTA, for a run that reads DNA and does not say in which format: headers are not bases. Other files stay."""
    if data.format != "raw" or run is None or not reads_characters(Path(run, TOKENIZER)):
        return list(documents)
    return [record for document in documents for record in (fasta_documents([document]) if is_fasta(document) else [document])]
