"""The shipped experiments, run or resumed one after another; each writes its block, and its pictures go to docs/pictures.

    make bench BENCHMARKS=experiments

About four and a half hours on two cores, two of them for megabyte-text. Finished experiments in runs/experiments are not run again.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from benchmarks.recording import RESULTS, record, table
from subquad.comparison.experiment import read_experiment
from subquad.comparison.results import Results, read_results
from subquad.comparison.runner import compare
from subquad.comparison.tables import markdown

ROOT = Path(__file__).parent.parent
ORDER = (
    "shakespeare",
    "megabyte-text",
    "megabyte-longer",
    "megabyte-ablations",
    "megabyte-inference",
    "flops-figure",
    "tokens-vs-bytes",
    "recall",
    "hyena-shakespeare",
    "m2-gpt",
    "m2-bert",
    "encoder-norms",
    "long-documents",
)
PICTURES = RESULTS.parent / "pictures"


def main() -> None:
    """Runs the experiments that are not finished and writes the blocks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", default=ORDER, help="which experiments (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "experiments")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--written", action="store_true", help="only write the blocks of finished experiments")
    arguments = parser.parse_args()
    for name in arguments.names:
        out = arguments.out / name
        if not arguments.written:
            experiment = read_experiment(ROOT / "experiments" / f"{name}.yaml")
            compare(experiment, out, resume=(out / "experiment.yaml").is_file(), jobs=arguments.jobs, command=command(name))
        write(name, read_results(out), out)


def command(name: str) -> str:
    """What repeats one experiment."""
    return f"subquad compare experiments/{name}.yaml --out runs/experiments/{name}"


def write(name: str, results: Results, out: Path) -> None:
    """The block of docs/results.md, under its pictures."""
    PICTURES.mkdir(exist_ok=True)
    pictures = []
    for picture in sorted(out.glob("*.svg")):
        if not picture.stem.endswith("_by_time"):  # the machine's neighbours are in it; the page of the run has it
            shutil.copyfile(picture, PICTURES / f"{name}_{picture.name}")
            pictures.append(f"![{picture.stem.replace('_', ' ')}](pictures/{name}_{picture.name})")
    tables = markdown(results).partition("\n")[2].replace("\n## ", "\n### ")  # the block has the title already
    parts = [results.about.strip(), f"Budget: {results.budget}." if results.budget else "", tables, positions(results), probes(results)]
    notes = "\n".join(f"- {note}" for note in results.notes)
    record(name, results.title, command(name), "\n\n".join(part.strip() for part in [*parts, notes, "\n".join(pictures)] if part))


def positions(results: Results) -> str:
    """Bits at each byte of a patch, of the models that have patches, on one text."""
    found = [outcome for outcome in results.outcomes if outcome.inside and outcome.seed == results.outcomes[-1].seed]
    found = [outcome for outcome in found if outcome.data == found[0].data]
    if not found:
        return ""
    longest = max(len(outcome.inside) for outcome in found)
    rows = [[outcome.model, *(f"{bits:.3f}" for bits in outcome.inside), *[""] * (longest - len(outcome.inside))] for outcome in found]
    title = f"### Bits by position inside the patch ({found[0].data})\n\n"
    return title + table(["model", *map(str, range(1, longest + 1))], rows)


def probes(results: Results) -> str:
    """The answers to the probes, a table for each question."""
    parts = []
    for question in dict.fromkeys(name for outcome in results.outcomes for name in outcome.probes):
        answers = [(outcome.model, row) for outcome in results.outcomes for row in outcome.probes.get(question, [])]
        header = list(answers[0][1])
        parts.append(f"### {question}\n\n" + table(["model", *header], [[model, *(row[key] for key in header)] for model, row in answers]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
