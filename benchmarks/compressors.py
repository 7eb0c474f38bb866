"""What xz makes of the bytes that the comparisons score: a simple baseline for every model of text.

    make bench BENCHMARKS=compressors

A minute or two on one core. The texts are those of the experiments shakespeare and megabyte-text, from the repository, SUBQUAD_DATA and
Python's standard library.
"""

from __future__ import annotations

import lzma
from pathlib import Path

from benchmarks.recording import record, table
from subquad.comparison.experiment import SPLIT_SEED, expand_paths, read_experiment
from subquad.models import PRESETS
from subquad.objectives.next_token import NextToken, pieces
from subquad.training.config import build_config

EXPERIMENTS = [Path(__file__).parent.parent / "experiments" / f"{name}.yaml" for name in ("shakespeare", "megabyte-text")]


def main() -> None:
    """Measures and writes the block."""
    rows = []
    for name, spec in [item for path in EXPERIMENTS for item in read_experiment(path).data.items()]:
        options = {"data.paths": expand_paths(spec.paths), "data.split": spec.split, "data.fractions": list(spec.fractions)}
        model = PRESETS["transformer-tiny"]
        config = build_config({"model": model.model_dump(mode="json")}, options | {"data.split_seed": SPLIT_SEED})
        assert config.objective is not None
        objective = config.objective.build(config.setup)
        assert isinstance(objective, NextToken)
        objective.prepare(model.build())
        seen = b"".join(span.read(0, span.size).tobytes() for span in objective.split.train)
        scored = b"".join(pieces(objective.split.test, spec.score_bytes, whole_characters=False))
        alone, primed = packed(scored), packed(seen + scored) - packed(seen)
        rows.append([name, f"{len(seen) / 1e6:.1f} MB", f"{len(scored):,}", *(f"{8 * size / len(scored):.3f}" for size in (alone, primed))])
        print(rows[-1], flush=True)
    body = (
        "Bits per byte of the bytes that the experiments `shakespeare` and `megabyte-text` score, and on books `m2-gpt`, "
        "`tokens-vs-bytes`, `megabyte-ablations` and `megabyte-longer` too: packed alone, and as what they add to the training part. "
        "Primed, `xz` has read the whole training part; the models of these experiments read from half a megabyte to eleven of it.\n\n"
    )
    columns = ["text", "training part", "bytes scored", "`xz -9e`", "`xz -9e`, primed"]
    record("compressors", "What xz makes of the same texts", "make bench BENCHMARKS=compressors", body + table(columns, rows))


def packed(data: bytes) -> int:
    """The size of the archive."""
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
