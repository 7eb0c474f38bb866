"""Search in Cranfield's abstracts and QMSum's meetings: BM25 against a small M2-BERT that was trained on these texts alone.

    make bench BENCHMARKS=retrieval

About six minutes on one core. The sets are those of SUBQUAD_DATA (retrieval/cranfield, retrieval/qmsum). --small is a quick check that
everything runs, and records nothing.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.recording import record, table
from subquad import api
from subquad.evaluation.flops import count_parameters
from subquad.evaluation.ranking import by_embedding, by_score, evaluate
from subquad.models.encoder import Encoder

DATA = Path(os.environ.get("SUBQUAD_DATA", "../shared/data"), "retrieval")
VOCAB, MASK_ID, CONTEXT, WINDOW = 4096, 4, 1024, 512
MACHINE: dict[str, Any] = {"dtype": "float32", "threads": 1, "device": "cpu"}
PRETRAINING: dict[str, Any] = {
    **MACHINE,
    "model.vocab": VOCAB,
    "model.blank": MASK_ID,
    "data.tokenizer": VOCAB,
    "data.window": WINDOW,
    "data.fractions": [0.95, 0.05, 0.0],
    "steps": 300,
    "batch": 16,
    "optim.lr": 1e-3,
    "eval.every": 100,
    "save.every": 300,
}
FINE_TUNING: dict[str, Any] = {**MACHINE, "optim.lr": 1e-3, "eval.every": 20, "save.every": 1000}
LOSSES = {"InfoNCE": "infonce", "orthogonal": "orthogonal"}


@dataclass(frozen=True)
class Search:
    """Documents and test queries by name, which documents answer which of these, and pairs to train and to validate on."""

    title: str
    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    train: list[tuple[str, str]]
    valid: list[tuple[str, str]]
    depths: tuple[int, ...]
    options: dict[str, Any]


def cranfield() -> Search:
    """Queries 1 to 120 train, with the titles of all documents, 121 to 150 validate, and 151 to 180 test."""
    folder = DATA / "cranfield"
    fields = {name: one for name, one in _records(lzma.decompress((folder / "cran.all.1400.xz").read_bytes()).decode())}
    documents = {name: one["W"] or one["T"] or "nothing" for name, one in fields.items()}
    asked = [one["W"] for _, one in _records((folder / "cran.qry").read_text())]
    judgements: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels_1_180.txt").read_text().splitlines():
        query, _, document, grade = line.split()
        judgements.setdefault(query, {})[document] = int(grade)

    def pairs(first: int, last: int) -> list[tuple[str, str]]:
        return [(asked[number - 1], documents[name]) for number in range(first, last + 1) for name in judgements.get(str(number), {})]

    bodies = [(one["T"], one["W"].removeprefix(one["T"]).strip()) for one in fields.values()]
    test = {str(number): asked[number - 1] for number in range(151, 181) if str(number) in judgements}
    return Search(
        "Cranfield",
        documents,
        test,
        {query: judgements[query] for query in test},
        pairs(1, 120) + [(title, body) for title, body in bodies if title and body],
        pairs(121, 150),
        (10, 100),
        {"steps": 100, "batch": 32},
    )


def qmsum() -> Search:
    """Specific queries of committees' meetings train, those of product and academic meetings test; any of the 53 may be the answer."""
    documents: dict[str, str] = {}
    asked: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for file, part in (("Committee_train", "train"), ("Product_val", "test"), ("Academic_val", "test")):
        for number, line in enumerate(lzma.decompress((DATA / "qmsum" / f"{file}.jsonl.xz").read_bytes()).splitlines()):
            meeting, name = json.loads(line), f"{file}-{number}"
            documents[name] = "\n".join(f"{turn['speaker']}: {turn['content']}" for turn in meeting["meeting_transcripts"])
            asked[part] += [(one["query"], name) for one in meeting["specific_query_list"]]
    return Search(
        "QMSum",
        documents,
        {str(number): query for number, (query, _) in enumerate(asked["test"])},
        {str(number): {name: 1} for number, (_, name) in enumerate(asked["test"])},
        [(query, documents[name]) for query, name in asked["train"]],
        [],  # the last weights are taken: validating on meetings would cost as much as training
        (1, 10),
        {"steps": 20, "batch": 4, "data.fractions": [1.0, 0.0, 0.0]},
    )


def _records(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The records of a SMART file: a number, and fields by their letter, each as one line."""
    for one in re.split(r"^\.I ", text, flags=re.MULTILINE)[1:]:
        number, _, rest = one.partition("\n")
        parts = re.split(r"^\.([A-Z])\n", rest, flags=re.MULTILINE)[1:]
        yield number.strip(), {letter: " ".join(words.split()) for letter, words in zip(parts[::2], parts[1::2], strict=True)}


def by_bm25(queries: Mapping[str, str], documents: Mapping[str, str]) -> dict[str, list[str]]:
    """Lists by BM25 (bm25s, k1 = 1.5, b = 0.75), English stop words left out, no stemming."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents.values()), show_progress=False), show_progress=False)
    words = bm25s.tokenize(list(queries.values()), return_ids=False, show_progress=False)
    scores = torch.stack([torch.from_numpy(index.get_scores(one)) for one in words])
    return dict(zip(queries, by_score(scores, list(documents)), strict=True))


def written(path: Path, pairs: Sequence[tuple[str, str]]) -> str:
    """The path of a new table of pairs."""
    path.write_text("".join(json.dumps({"query": query, "passage": passage}) + "\n" for query, passage in pairs), encoding="utf-8")
    return str(path)


def fine_tuned(search: Search, start: Path, folder: Path, context: int, loss: str, changes: dict[str, Any]) -> nn.Module:
    """The encoder after training on pairs, with a context that holds every document whole; filters go on as they were."""
    known = api.load(start)
    assert isinstance(known, Encoder)
    model = {**(api.lengthened(known, context, "continued") if context > CONTEXT else known).config.model_dump(mode="json"), "head": "none"}
    valid = {"data.valid": [written(folder / "valid.jsonl", search.valid)]} if search.valid else {}
    options = {**FINE_TUNING, **search.options, **valid, "contrast.loss": loss, "data.tokenizer": str(start / "tokenizer.json"), **changes}
    pairs = written(folder / "train.jsonl", search.train)
    return api.load(api.train(model, pairs, folder / loss, options, init=start, quiet=True, report=False))


def measured(search: Search, start: Path, folder: Path, changes: dict[str, Any]) -> list[list[str]]:
    """A row for BM25, for the encoder as it was pre-trained, and for each loss."""
    folder.mkdir()
    known = api.load(start)
    assert isinstance(known, Encoder) and known.tokenizer is not None
    longest = max(len(known.tokenizer.encode(text.encode())) for text in [*search.documents.values(), *search.queries.values()])
    context = max(CONTEXT, -(-longest // CONTEXT) * CONTEXT)
    rows = []

    def add(way: str, lists: Mapping[str, Sequence[str]], trained: float, began: float) -> None:
        found = evaluate(lists, search.judgements, search.depths)
        seconds = time.process_time() - began
        figures = [f"{found[name]:.3f}" for name in ("ndcg@10", *(f"recall@{depth}" for depth in search.depths), "mrr")]
        rows.append([way, *figures, f"{trained:.0f} s" if trained else "", f"{seconds:.1f} s"])
        print(search.title, rows[-1], flush=True)

    began = time.process_time()
    add("BM25", by_bm25(search.queries, search.documents), 0, began)
    began = time.process_time()
    whole = api.lengthened(known, context, "continued") if context > CONTEXT else known
    add("M2-BERT, pre-trained", by_embedding(whole, search.queries, search.documents), 0, began)
    for name, loss in LOSSES.items():
        began = time.process_time()
        model = fine_tuned(search, start, folder, context, loss, changes)
        trained = time.process_time() - began
        began = time.process_time()
        add(f"M2-BERT, {name}", by_embedding(model, search.queries, search.documents), trained, began)
    return rows


def main() -> None:
    """Pre-trains, fine-tunes, ranks and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="two steps of everything on a tenth of the documents")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    searches, changes = [cranfield(), qmsum()], {"steps": 2, "eval.windows": 0} if small else {}
    if small:
        searches = [tenth(search) for search in searches]
    tables = []
    with tempfile.TemporaryDirectory() as name:
        texts = Path(name, "texts")
        texts.mkdir()
        for search in searches:
            (texts / f"{search.title}.txt").write_text("\n\n".join(search.documents.values()), encoding="utf-8")
        began = time.process_time()
        start = api.train("m2-bert-tiny", str(texts), Path(name, "start"), PRETRAINING | changes, quiet=True, report=False)
        taken, best = time.process_time() - began, api.info(start)["best_validation"]
        size = count_parameters(api.load(start))
        for search in searches:
            head = ["", "nDCG@10", *(f"recall@{depth}" for depth in search.depths), "MRR", "fine-tuning", "reading and ranking"]
            about = f"**{search.title}**: {len(search.queries)} test queries, {len(search.documents)} documents"
            steps = f"{len(search.train):,} training pairs, {search.options['steps']} steps of {search.options['batch']}."
            tables.append(f"{about}; {steps}\n\n" + table(head, measured(search, start, Path(name, search.title), changes)))
    loss = f", to {best['cross_entropy']:.2f} nats a masked token" if best else ""
    body = (
        f"The encoder is `m2-bert-tiny` (64 x 2) with {VOCAB:,} word pieces, {size / 1e6:.2f}M parameters, pre-trained for "
        f"{PRETRAINING['steps']} steps of {PRETRAINING['batch']} windows of {WINDOW} tokens on the documents of both sets{loss} "
        f"({taken:.0f} s). It reads every document whole, meetings of up to 147,000 characters too. BM25 is bm25s without "
        "stemming. Training pairs are those of training queries, on Cranfield also the titles of all documents with their texts; no test "
        "query or judgement is among them. Seconds are of one processor.\n\n" + "\n\n".join(tables)
    )
    if not small:
        record("retrieval", "Retrieval", "make bench BENCHMARKS=retrieval", body)


def tenth(search: Search) -> Search:
    """The same with every tenth document and test query, for a check that it runs."""
    kept = dict(list(search.documents.items())[::10])
    queries = dict(list(search.queries.items())[::10])
    judged = {query: search.judgements[query] for query in queries}
    texts = set(kept.values())
    train = [(query, text) for query, text in search.train if text in texts] or search.train[:4]
    return Search(search.title, kept, queries, judged, train, search.valid[:2], search.depths, search.options)


if __name__ == "__main__":
    main()
