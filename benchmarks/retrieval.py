"""Search in Cranfield's abstracts and QMSum's meetings: BM25 against a small M2-BERT that was trained on these texts alone.

    make bench BENCHMARKS=retrieval

About 18 minutes of one core. The encoder learns from pairs: two random crops of each document's own text, which belong together,
and the training queries with crops of their answers. It ranks whole documents. The collections are in SUBQUAD_DATA
(retrieval/cranfield, retrieval/qmsum). --small is a quick check that everything runs, and records nothing.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.recording import data_set, record, table
from subquad import api
from subquad.evaluation.flops import count_parameters
from subquad.evaluation.ranking import by_embedding, by_score, evaluate, fused
from subquad.models.encoder import Encoder

VOCAB, MASK_ID, CONTEXT, WIDTH = 4096, 4, 1024, 256
MACHINE: dict[str, Any] = {"dtype": "float32", "threads": 1, "device": "cpu", "save.every": 100_000}
PRETRAINING: dict[str, Any] = {
    **MACHINE,
    "model.vocab": VOCAB,
    "model.mask_token": MASK_ID,
    "model.max_len": CONTEXT,
    "model.positions": "none",
    "model.stack.dim": WIDTH,
    "model.stack.depth": 1,
    "data.tokenizer": VOCAB,
    "data.window": 128,
    "data.fractions": [0.95, 0.05, 0.0],
    "steps": 10,
    "batch": 16,
    "eval.every": 10,
}
FINE_TUNING: dict[str, Any] = {**MACHINE, "optim.lr": 2e-3, "data.fractions": [1.0, 0.0, 0.0]}
LOSSES = {"InfoNCE": "infonce", "orthogonal": "orthogonal"}


@dataclass(frozen=True)
class Search:
    """Documents, queries that validate and test by name, which documents answer which of these, and two kinds of pairs to train on:
    ``labelled`` are of training queries, ``own`` of documents' texts alone."""

    title: str
    documents: dict[str, str]
    valid: dict[str, str]
    test: dict[str, str]
    judgements: dict[str, dict[str, int]]
    labelled: list[tuple[str, str]]
    own: list[tuple[str, str]]
    depths: tuple[int, ...]
    options: dict[str, Any]


def cranfield() -> Search:
    """Queries 1 to 120 train, 121 to 150 validate, and 151 to 180 test."""
    folder, chance = data_set("retrieval/cranfield"), random.Random(0)
    fields = {name: one for name, one in smart_records(lzma.decompress((folder / "cran.all.1400.xz").read_bytes()).decode())}
    documents = {name: one["W"] or one["T"] or "nothing" for name, one in fields.items()}
    asked = {str(number): one["W"] for number, (_, one) in enumerate(smart_records((folder / "cran.qry").read_text()), 1)}
    judgements: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels_1_180.txt").read_text().splitlines():
        query, _, document, grade = line.split()
        judgements.setdefault(query, {})[document] = int(grade)

    def queries(first: int, last: int) -> dict[str, str]:
        return {query: asked[query] for query in map(str, range(first, last + 1)) if query in judgements}

    answers = [(text, documents[name].split()) for query, text in queries(1, 120).items() for name in judgements[query]]
    own = []
    for one in fields.values():
        title, words = one["T"], one["W"].removeprefix(one["T"]).split()
        if title and words:
            own.append((title, cropped(words, 40, 40, chance)))
        if len(words) > 20:
            own += [(cropped(words, 8, 20, chance), cropped(words, 25, 40, chance)) for _ in range(6)]
    return Search(
        "Cranfield",
        documents,
        queries(121, 150),
        queries(151, 180),
        judgements,
        [(query, cropped(words, 25, 40, chance)) for query, words in answers for _ in range(3)],
        own,
        (10, 100),
        {"steps": 250, "batch": 128, "data.window": 56},
    )


def qmsum() -> Search:
    """Specific queries of 16 committees' meetings train, those of 8 more validate, those of product and academic meetings test; any of
    the 53 meetings may be the answer."""
    chance = random.Random(0)
    documents: dict[str, str] = {}
    labelled: list[tuple[str, str]] = []
    own: list[tuple[str, str]] = []
    judgements: dict[str, dict[str, int]] = {}
    asked: dict[str, dict[str, str]] = {"valid": {}, "test": {}}
    for file in ("Committee_train", "Product_val", "Academic_val"):
        for number, line in enumerate(lzma.decompress((data_set("retrieval/qmsum") / f"{file}.jsonl.xz").read_bytes()).splitlines()):
            meeting, name = json.loads(line), f"{file}-{number}"
            turns = [f"{turn['speaker']}: {turn['content']}" for turn in meeting["meeting_transcripts"]]
            documents[name] = "\n".join(turns)
            words = documents[name].split()
            own += [(cropped(words, 8, 24, chance), cropped(words, 40, 70, chance)) for _ in range(160)]
            for one in meeting["specific_query_list"]:
                if file == "Committee_train" and number < 16:
                    spans = [turns[int(first) : int(last) + 1] for first, last in one["relevant_text_span"]]
                    answer = " ".join(turn for span in spans for turn in span).split()
                    labelled += [(one["query"], cropped(answer, 40, 70, chance)) for _ in range(3)]
                else:
                    query = str(len(judgements))
                    asked["valid" if file == "Committee_train" else "test"][query] = one["query"]
                    judgements[query] = {name: 1}
    return Search(
        "QMSum",
        documents,
        asked["valid"],
        asked["test"],
        judgements,
        labelled,
        own,
        (1, 10),
        {"steps": 130, "batch": 64, "data.window": 100, "objective.temperature": 0.1},
    )


def cropped(words: Sequence[str], least: int, most: int, chance: random.Random) -> str:
    """That many consecutive words from a random place; all of them if there are fewer."""
    number = min(len(words), chance.randint(least, most))
    first = chance.randint(0, len(words) - number)
    return " ".join(words[first : first + number])


def smart_records(text: str) -> Iterator[tuple[str, dict[str, str]]]:
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


def fine_tuned(search: Search, start: Path, folder: Path, loss: str, changes: dict[str, Any]) -> nn.Module:
    """The encoder after training on pairs of crops."""
    known = api.load(start)
    assert isinstance(known, Encoder)
    model = {**known.config.model_dump(mode="json"), "head": "none"}
    options = {**FINE_TUNING, **search.options, "objective.loss": loss, **changes}
    pairs = written(folder / "train.jsonl", search.own + search.labelled)
    return api.load(api.train(model, pairs, folder / loss, options, init=start, quiet=True, report=False))


def reaching(model: nn.Module, search: Search) -> nn.Module:
    """The encoder with a context that holds every document whole; its filters are continued."""
    assert isinstance(model, Encoder) and model.tokenizer is not None
    longest = max(len(model.tokenizer.encode(text.encode())) for text in search.documents.values())
    return api.extend_context(model, -(-longest // CONTEXT) * CONTEXT, "continued") if longest > CONTEXT else model


def measured(search: Search, start: Path, folder: Path, changes: dict[str, Any]) -> list[list[str]]:
    """A row for BM25, for the untrained encoder, for each loss, and for BM25 and InfoNCE fused."""
    folder.mkdir()
    queries, rows = search.valid | search.test, []

    def add(way: str, lists: Mapping[str, Sequence[str]], trained: float, began: float) -> None:
        seconds = time.process_time() - began
        valid, found = (
            evaluate({query: lists[query] for query in part}, {query: search.judgements[query] for query in part}, search.depths)
            for part in (search.valid, search.test)
        )
        figures = [f"{found[name]:.3f}" for name in ("ndcg@10", *(f"recall@{depth}" for depth in search.depths), "mrr")]
        rows.append([way, *figures, f"{valid['ndcg@10']:.3f}", f"{trained:.0f} s" if trained else "", f"{seconds:.1f} s"])
        print(search.title, rows[-1], flush=True)

    began = time.process_time()
    words = by_bm25(queries, search.documents)
    add("BM25", words, 0, began)
    began = time.process_time()
    add("M2-BERT, untrained", by_embedding(reaching(api.load(start), search), queries, search.documents), 0, began)
    meanings: dict[str, dict[str, list[str]]] = {}
    for name, loss in LOSSES.items():
        began = time.process_time()
        model = fine_tuned(search, start, folder, loss, changes)
        trained = time.process_time() - began
        began = time.process_time()
        meanings[name] = by_embedding(reaching(model, search), queries, search.documents)
        add(f"M2-BERT, {name}", meanings[name], trained, began)
    began = time.process_time()
    add("BM25 + M2-BERT, InfoNCE", {query: fused([words[query], meanings["InfoNCE"][query]]) for query in queries}, 0, began)
    return rows


def main() -> None:
    """Pre-trains, fine-tunes, ranks and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="two steps of everything on a tenth of the documents")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    searches, changes = [cranfield(), qmsum()], {"steps": 2} if small else {}
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
        taken, size = time.process_time() - began, count_parameters(api.load(start))
        for search in searches:
            columns = [
                "nDCG@10",
                *(f"recall@{depth}" for depth in search.depths),
                "MRR",
                "nDCG@10, validation",
                "training",
                "reading and ranking",
            ]
            about = (
                f"**{search.title}**: {len(search.documents)} documents, {len(search.test)} test and {len(search.valid)} validation queries"
            )
            pairs = f"{len(search.own):,} pairs of documents' texts, {len(search.labelled):,} of training queries"
            steps = f"{search.options['steps']} steps of {search.options['batch']}."
            tables.append(
                f"{about}; {pairs}, {steps}\n\n" + table(["", *columns], measured(search, start, Path(name, search.title), changes))
            )
    body = (
        f"The encoder is an M2-BERT of one block ({WIDTH} x 1, norms before) with {VOCAB:,} word pieces, {size / 1e6:.2f}M parameters. "
        f"Its word pieces come from {PRETRAINING['steps']} steps of masked language modelling on all documents ({taken:.0f} s), "
        '"untrained" is the encoder after these; then it is trained on pairs of crops, for each collection separately. It reads documents '
        "whole, including meetings of up to 147,000 characters. BM25 is bm25s without stemming; the last "
        "row is their reciprocal rank fusion. No test query or judgement was trained on "
        "or used to choose the recipe, which was tuned on Cranfield. "
        "Seconds are of one processor.\n\n" + "\n\n".join(tables)
    )
    if not small:
        record("retrieval", "Retrieval", "make bench BENCHMARKS=retrieval", body)


def tenth(search: Search) -> Search:
    """The same with a tenth of the documents and queries, for a check that it runs."""
    kept = dict(list(search.documents.items())[::10])
    valid, test = (dict(list(part.items())[::10]) for part in (search.valid, search.test))
    options = {**search.options, "batch": 8}
    return Search(search.title, kept, valid, test, search.judgements, search.labelled[::10], search.own[::10], search.depths, options)


if __name__ == "__main__":
    main()
