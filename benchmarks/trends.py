"""The trends of MEGABYTE's tables on real text: what each part is worth, which bytes of a patch are hard, what better windowings gain.

    make bench BENCHMARKS=trends

One small model and its ablations, each trained on the same bytes with the same seed, scored on the last tenth of the text.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.recording import record, table
from subquad import api
from subquad.evaluation.flops import count_flops
from subquad.models.base import CausalModel
from subquad.objectives.next_token import mean_by_part

TEXT = Path(__file__).parent.parent / "examples" / "data" / "tinyshakespeare.txt"
PRESET = "megabyte-tiny"
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "without cross-patch attention": {"model.cross_patch": 0},
    "with the convolutional encoder": {"model.conv_kernels": [3, 5, 7]},
    "without the local model": {"model.ablation": "local"},
    "without the global model": {"model.ablation": "global"},
}
PASSES: dict[str, dict[str, Any]] = {
    "basic": {},
    "sliding": {"sliding": True},
    "strided": {"strided": True},
    "sliding and strided": {"sliding": True, "strided": True},
}

EXPLANATION = (
    "\n\nAs in the paper, both models and sliding windows help, at equal training bytes. Two trends differ in a model as small as this: "
    "the first byte of a patch is the hardest, so strided scoring, which prefers the first half of each patch, makes scores worse. "
    "That byte is predicted from the global output alone, and a small global model that has seen one patch for every P bytes of a "
    'short text is still the weaker of the two; in the paper it is by far the larger and has seen 80 GB. The block "Trends with a '
    'strong global model" has a stronger one, trained for longer.'
)


def main() -> None:
    """Trains, scores and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--patch-size", type=int, default=8)
    arguments = parser.parse_args()
    text = TEXT.read_bytes()
    held_out = text[round(0.9 * len(text)) :]
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: train(Path(folder, str(index)), change, arguments) for index, (name, change) in enumerate(ABLATIONS.items())}
        rows = []
        for name, run in runs.items():
            model = api.load(run)
            assert isinstance(model, CausalModel)
            rows.append([name, f"{api.score(model, held_out).bits_per_byte:.3f}", f"{count_flops(model.config).total / 1e6:.2f}"])
        full = api.load(runs["full"])
        inside = mean_by_part([api.score(full, held_out).bits], arguments.patch_size, arguments.patch_size)
        passes = [[name, f"{api.score(full, held_out, **how).bits_per_byte:.4f}"] for name, how in PASSES.items()]
    places = [str(place) for place in range(len(inside))]
    body = (
        f"`{PRESET}` with P = {arguments.patch_size}, {arguments.steps} steps on tinyshakespeare, "
        "last tenth held out, one seed; bits per byte.\n\n"
        + table(["model", "bits per byte", "MFLOP per byte"], rows)
        + "\n\nMean bits at each position inside the patch:\n\n"
        + table(places, [[f"{bits:.3f}" for bits in inside]])
        + "\n\nScoring the full model (Table 11):\n\n"
        + table(["windowing", "bits per byte"], passes)
        + EXPLANATION
    )
    record("trends", "Trends", "make bench BENCHMARKS=trends", body)


def train(out: Path, change: dict[str, Any], arguments: argparse.Namespace) -> Path:
    """One run."""
    options = {
        "steps": arguments.steps,
        "batch": 2,
        "data.split": "range",
        "data.fractions": [0.9, 0.0, 0.1],
        "schedule.warmup": 50,
        "optim.lr": 4e-3,
        "dtype": "float32",
        "model.patch_size": arguments.patch_size,
    }
    return api.train(PRESET, str(TEXT), out, {**options, **change})


if __name__ == "__main__":
    main()
