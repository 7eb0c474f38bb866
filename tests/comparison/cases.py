"""A made-up comparison: figures that are easy to check, every status, and names that are markup."""

from __future__ import annotations

from dataclasses import replace

from subquad.comparison.results import Baseline, CostCurve, Outcome, Published, Results
from subquad.sections import Passage
from tests.report.reading import EVIL

MODELS = ("transformer", "megabyte", "hyena <b>")
DATA = ("books", "code", "logs & co")
# Bits per byte of the first seed; the second has 0.02 more, but 0.2 more of megabyte on logs.
BITS = {
    ("transformer", "books"): 2.5,
    ("megabyte", "books"): 2.25,
    ("transformer", "code"): 1.5,
    ("megabyte", "code"): 1.75,
    ("transformer", "logs & co"): 1.0,
    ("megabyte", "logs & co"): 0.875,
    ("hyena <b>", "books"): 2.375,
}


def outcome(model: str, data: str, seed: int) -> Outcome:
    """A cell that is done, or, of hyena, one that is not."""
    cell = Outcome(
        f"{data}/{model}-seed{seed}",
        model,
        data,
        seed,
        1e-3,
        "final",
        "waiting",
        config={"kind": "megabyte" if model == "megabyte" else "x"},
    )
    if (model, data) == ("hyena <b>", "code"):
        return replace(cell, status="diverged", step=120 + seed, curve=[(1e9, 1.0, 1000, 5.0)])
    if (model, data) == ("hyena <b>", "logs & co"):
        return replace(cell, status="failed", error=EVIL) if seed == 0 else cell
    bits = BITS[model, data] + seed * (0.2 if (model, data) == ("megabyte", "logs & co") else 0.02)
    return replace(
        cell,
        status="done",
        loss={"basic": bits, "sliding": bits - 0.125} | ({"strided": bits - 0.25} if model == "megabyte" else {}),
        inside=[bits + 0.5, bits, bits - 0.25, bits - 0.25] if model == "megabyte" else [],
        by_position=[bits + 1, bits, bits - 0.5, bits - 0.5],
        parameters=3_400_000,
        flops_per_byte=2e7,
        training_flops_per_byte=6e7,
        training_flops=6e14,
        training_bytes=10_000_000,
        training_seconds=185.0 + 30 * MODELS.index(model),
        state_bytes=163_840,
        peak_bytes=1_300_000_000,
        serial_steps=2.125,
        curve=[(6e7 * n, 185e-7 * n, n, bits + 6 * (1e4 / n) ** 0.7) for n in (10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000)],
        probes={"prompts <i>": [{"prompt": f"{EVIL} ", "bits a word": 3.14159, "texts": ["one ", "two"]}, {"prompt": "cut", "words": 7}]},
        sample=f"{EVIL} by {model}" if (data, seed) == ("books", 0) else "",
        passage=Passage("Books", b"caf\xc3\xa9 \xff", [1.5] * 7, 4) if (model, data, seed) == ("megabyte", "books", 0) else None,
        command=f"subquad train '{model}' --data '{data}'",
    )


def grid(seeds: int = 2) -> Results:
    """Three models on three texts."""
    cells = [outcome(model, data, seed) for model in MODELS for data in DATA for seed in range(seeds)]
    rate = Outcome("books/megabyte-lr", "megabyte", "books", 0, 3e-3, "rate", "done", loss={"validation": 9.5}, config={"kind": "megabyte"})
    return Results(
        title="Texts & <models>",
        about="What is asked.\n\nHow it is <measured>.",
        machine="2 cores, PyTorch 2",
        command="subquad compare text.yaml --out runs/text",
        budget="6e+14 training FLOPs a cell",
        models=MODELS,
        data=DATA,
        outcomes=(rate, *cells),
        published=(Published("Table 2, perplexity", ("PG-19", "arXiv"), {"MEGABYTE <1.3B>": (36.4, None), "Transformer": (69.4, 2.07)}),),
        costs=(
            CostCurve("megabyte", (1000, 10_000, 100_000), (2e7, 2.5e7, 9e7), ((1000, 2.1e7), (100_000, 8.8e7)), "of <Figure> 3"),
            CostCurve("figure alone", (), (), ((2000, 5e7),)),
        ),
        reference="megabyte",
        notes=("megabyte: learning rate 0.001 by validation (<best>)",),
        baselines=(Baseline("xz <-9>", "books", 2.0, "alone"), Baseline("zstd", "code", 2.5)),
    )


def empty() -> Results:
    """Nothing has run, nothing was asked."""
    return Results("Nothing", "", "", "", "", (), (), ())
