"""Counted costs against the paper's: FLOPs per byte of the Table 7 pair, serial layer calls of the Table 9 pair.

    make bench BENCHMARKS=costs

The layer calls are counted while 8,192 bytes are really generated, by models of the paper's depths and small widths.
"""

from __future__ import annotations

import torch

from benchmarks.recording import record, table
from subquad.evaluation.decoding import layer_calls
from subquad.evaluation.flops import count_flops
from subquad.models.base import CausalModel
from subquad.models.language_model import transformer
from subquad.models.megabyte import megabyte

BYTES = 8192


def main() -> None:
    """Counts and writes the block."""
    torch.set_num_threads(1)
    flops = [
        ["MEGABYTE 758M/262M, P = 8, T = 8,192", "0.637", f"{count_flops('megabyte-arxiv').total / 1e9:.3f}"],
        ["Transformer 320M, T = 1,024", "0.600", f"{count_flops(transformer(1024, 22, 16, 1024)).total / 1e9:.3f}"],
    ]
    pair: dict[str, tuple[CausalModel, int]] = {
        "MEGABYTE, 24 global and 15 local layers, P = 8": (megabyte((32, 24, 2), (16, 15, 2), 8, BYTES).build(), 147_456),
        "Transformer, 24 layers": (transformer(16, 24, 2, BYTES).build(), 196_608),
    }
    calls = [[name, f"{expected:,}", f"{layer_calls(model.eval(), BYTES):,}"] for name, (model, expected) in pair.items()]
    body = (
        "GFLOP per byte of a forward pass, causal attention counted half:\n\n"
        + table(["model", "from the paper's formulas", "counted"], flops)
        + f"\n\nSerial layer calls while generating {BYTES:,} bytes (Table 9's depths):\n\n"
        + table(["model", "formula of section 3.2", "counted"], calls)
    )
    record("costs", "Costs", "make bench BENCHMARKS=costs", body)


if __name__ == "__main__":
    main()
