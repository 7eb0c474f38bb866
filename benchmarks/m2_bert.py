"""Latency of M2-BERT (80M) as an encoder against BERT-base of Hugging Face, with eager attention and with SDPA (the paper's Table 6).

    make bench BENCHMARKS=m2_bert

Batch 1, no mask, encoder without head; M2-BERT with the spectra of its filters made once (prepared) and without. float32; bfloat16 too
where the machine multiplies it faster than float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from benchmarks.recording import interleaved, median, record, table
from subquad.config import override
from subquad.evaluation.throughput import matmul_rate
from subquad.models import build_model, parse_model
from subquad.models.encoder import Encoder

LENGTHS = (512, 1024, 2048, 4096, 8192)
PEERS = ("sdpa", "eager")
FEW, ONCE = 4096, 8192  # from here on a call takes many seconds: two runs of it, or one


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        rates = {dtype: matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
        types = [torch.float32, *([torch.bfloat16] if rates[torch.bfloat16] > rates[torch.float32] else [])]
        rows = {dtype: [row(length, dtype, arguments.repeat) for length in arguments.lengths] for dtype in types}
    header = ["L", "M2-BERT, prepared", "M2-BERT", "BERT, SDPA", "BERT, eager", "to SDPA", "to eager"]
    body = (
        f"Seconds, medians of {arguments.repeat} runs in turns "
        f"(2 at {FEW:,}, and of eager attention one; one of each from {ONCE:,} on, not warmed up); ratios to the prepared one.\n\n"
        + "\n\n".join(f"### {str(dtype).removeprefix('torch.')}\n\n{table(header, lines)}" for dtype, lines in rows.items())
    )
    if torch.bfloat16 not in rows:
        slower = rates[torch.float32] / rates[torch.bfloat16]
        body += f"\n\nbfloat16 is not measured: this machine has no instructions for it, and is {slower:.0f} times slower in it."
    record("m2-bert-latency", "M2-BERT's latency", "make bench BENCHMARKS=m2_bert", body)


def m2_bert(length: int) -> Encoder:
    """The 80M model for so many ids."""
    model = build_model(override(parse_model("m2-bert-80m").model_dump(mode="json"), {"max_len": length, "head": "none"})).eval()
    assert isinstance(model, Encoder)
    return model


def row(length: int, dtype: torch.dtype, repeat: int) -> list[str]:
    """Seconds of every contender at one length."""
    ours, ids = m2_bert(length), torch.randint(30_000, (1, length))
    held = ours.prepare(length)
    calls: dict[str, Callable[[], object]] = {
        "prepared": partial(called, ours.hidden, dtype, ids, prepared=held),
        "whole": partial(called, ours.hidden, dtype, ids),
    }
    for attention in PEERS:
        config = BertConfig(max_position_embeddings=length)
        config._attn_implementation = attention
        peer: nn.Module = BertModel(config, add_pooling_layer=False).eval()
        calls[attention] = partial(called, peer, dtype, ids)
    slow = {"eager": calls.pop("eager")} if length >= FEW else {}
    few = repeat if length < FEW else 2 if length < ONCE else 1
    taken = interleaved(calls, few, warm=length < ONCE) | interleaved(slow, 1, warm=False)
    times = {name: median(seconds) for name, seconds in taken.items()}
    ratios = [f"{times[attention] / times['prepared']:.2f}x" for attention in PEERS]
    print(length, times, flush=True)
    return [f"{length:,}", *(f"{times[name]:.2f}" for name in ("prepared", "whole", *PEERS)), *ratios]


def called(model: Callable[..., object], dtype: torch.dtype, ids: Tensor, **named: object) -> object:
    """One pass, under autocast for half precision."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        return model(ids, **named)


if __name__ == "__main__":
    main()
