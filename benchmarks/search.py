"""What the commands and snippets of docs/retrieval.md give on Cranfield, as they are written there, beside TF-IDF and BM25.

    make bench BENCHMARKS=search

About seven minutes on one core. Nothing but the abstracts is trained on. The collection is in SUBQUAD_DATA (retrieval/cranfield).
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch

import subquad
from benchmarks.first_use import timed
from benchmarks.recording import data_set, record, table
from benchmarks.retrieval import by_bm25, cranfield, smart_records
from subquad.evaluation.ranking import by_score, evaluate, fused

PAGE = Path(__file__).parent.parent / "docs" / "retrieval.md"


def main() -> None:
    """Measures and writes the block."""
    torch.set_num_threads(1)
    documents, judgements, tuned_on = cranfield().documents, cranfield().judgements, cranfield().valid
    fields = smart_records((data_set("retrieval/cranfield") / "cran.qry").read_text())
    queries = {str(number): one["W"] for number, (_, one) in enumerate(fields, 1) if str(number) in judgements}
    crops, _, ranking = blocks("python")[:3]
    command = blocks("sh")[0].replace("\\\n", " ").partition("#")[0].strip()
    names: dict[str, Any] = {"subquad": subquad, "queries": list(queries.values())}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents.values()), encoding="utf-8")
        exec(crops, names)
        taken = timed(command)
        began = time.perf_counter()
        exec(ranking, names)
        read = time.perf_counter() - began

    def lists(scores: torch.Tensor) -> dict[str, list[str]]:
        return dict(zip(queries, by_score(scores, list(documents)), strict=True))

    words, meanings, bm25 = lists(names["words"]), lists(names["cosines"]), by_bm25(queries, documents)
    ways = {
        "TF-IDF": words,
        "BM25": bm25,
        "the encoder": meanings,
        "TF-IDF + 0.3 times the encoder": lists(names["scores"]),
        "BM25 and the encoder, fused by rank": {query: fused([bm25[query], meanings[query]]) for query in queries},
    }
    rows = []
    for way, found in ways.items():
        row = [way]
        for part in (queries.keys() - tuned_on.keys(), tuned_on.keys()):
            means = evaluate({query: found[query] for query in part}, {query: judgements[query] for query in part})
            row += [f"{means[name]:.3f}" for name in ("ndcg@10", "recall@100")]
        rows.append(row)
    body = (
        f"{len(documents)} abstracts, {len(queries)} judged queries, of which {len(tuned_on)} served to choose settings (crops, weight "
        f"of 0.3); no query was trained on. Training with `{' '.join(command.split())}` took {taken:.0f} s, embedding and ranking "
        f"{read:.0f} s, on one thread in float32; one seed. TF-IDF: scikit-learn, English stop words left out, 1 + log of the counts. "
        "BM25: bm25s, without stemming.\n\n"
    )
    columns = ["ranked by", "nDCG@10", "recall@100", "nDCG@10, tuning queries", "recall@100, tuning queries"]
    record("search", "The commands of the page on retrieval", "make bench BENCHMARKS=search", body + table(columns, rows))


def blocks(language: str) -> list[str]:
    """The fenced blocks of the page in this language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


if __name__ == "__main__":
    main()
