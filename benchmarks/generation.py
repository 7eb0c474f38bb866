"""Generation, batch 1, float32: cached MEGABYTE against itself recomputed, MEGABYTE-pytorch, and a GPT-2 with key-value cache.

    make bench BENCHMARKS=generation

All models have about 25 million parameters. The speed is limited by how fast the weights for one byte can be read: all of them for
GPT-2; for MEGABYTE the local ones, and the global ones once per patch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.recording import median, record, table
from subquad.evaluation.flops import count_parameters
from subquad.models.megabyte import Megabyte, megabyte

CONTEXTS = (256, 1024, 4096)
NEW = 1023
PATCH = 8


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    ours, gpt2 = our_model(), gpt2_model()
    rates: dict[str, list[float]] = {"ours": [], "gpt2": []}
    for _ in range(arguments.repeat):
        rates["ours"].append(NEW / timed(lambda: cached(ours, 0, NEW)))
        rates["gpt2"].append(NEW / timed(lambda: gpt2_loop(gpt2, NEW)))
    per_byte = {context: at_context(ours, context) for context in CONTEXTS}
    write(ours, gpt2, {name: median(values) for name, values in rates.items()}, per_byte)


def our_model() -> Megabyte:
    """The peer's widths, and one global layer more: 25.9M parameters, where the peer has 25.4M and GPT-2 25.9M."""
    return Megabyte(megabyte((512, 7, 8), (256, 4, 8), PATCH, 8192)).eval()


def gpt2_model() -> Any:
    """A Hugging Face GPT-2 on bytes, with fused attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    kind: Any = GPT2Config  # its fields are not in its signature
    config = kind(vocab_size=256, n_positions=1024, n_embd=512, n_layer=8, n_head=8, attn_implementation="sdpa")
    return GPT2LMHeadModel(config).eval()


def peer_model(length: int) -> Any:
    """MEGABYTE-pytorch with room for ``length`` bytes."""
    from MEGABYTE_pytorch import MEGABYTE

    return MEGABYTE(num_tokens=256, dim=(512, 256), depth=(6, 4), max_seq_len=(length // PATCH, PATCH), flash_attn=True).eval()


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    with torch.inference_mode():
        call()
    return time.perf_counter() - start


def cached(model: Megabyte, context: int, new: int) -> None:
    """``new`` bytes after a prompt of ``context``; the time of the prompt is not counted by callers that pass it apart."""
    state = model.init_state(1)
    if context:
        model.prefill(torch.randint(256, (1, context)), state)
    for _ in range(new - 1):
        model.step(state.logits.argmax(-1), state)


def gpt2_loop(model: Any, new: int) -> None:
    """Our own loop over its cache, which is a little faster than ``generate``."""
    ids, past = torch.zeros(1, 1, dtype=torch.long), None
    for _ in range(new):
        out = model(input_ids=ids, past_key_values=past, use_cache=True)
        past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)


def at_context(model: Megabyte, context: int) -> dict[str, float]:
    """Seconds per byte after ``context`` bytes: cached, recomputed, and the peer's own ``generate``."""
    ids = torch.randint(1, 256, (1, context))
    with torch.inference_mode():
        state = model.init_state(1)
        model.prefill(ids, state)
    new = 8 * PATCH

    def step() -> None:
        for _ in range(new):
            model.step(state.logits.argmax(-1), state)

    peer = peer_model(context + PATCH)
    calls = {"cached": (step, new), "recomputed": (lambda: model(ids), 1), "peer": (lambda: peer.generate(ids), PATCH)}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(5):  # in turns, so that a neighbour on the machine slows all alike
        for name, (call, count) in calls.items():
            taken[name].append(timed(call) / count)
    return {name: median(times) for name, times in taken.items()}


def write(ours: nn.Module, gpt2: nn.Module, rates: dict[str, float], per_byte: dict[int, dict[str, float]]) -> None:
    """The block of docs/results.md."""
    touched = touched_bytes(ours)
    bandwidth = read_rate()
    whole = [
        [
            "ours, cached",
            f"{count_parameters(ours) / 1e6:.1f}M",
            f"{rates['ours']:.0f}",
            f"{touched / 1e6:.0f} MB",
            f"{bandwidth / touched:.0f}",
        ],
        [
            "GPT-2 (transformers), cached, SDPA",
            f"{count_parameters(gpt2) / 1e6:.1f}M",
            f"{rates['gpt2']:.0f}",
            f"{4 * count_parameters(gpt2) / 1e6:.0f} MB",
            f"{bandwidth / (4 * count_parameters(gpt2)):.0f}",
        ],
    ]
    rows = [
        [
            context,
            f"{1e3 * times['cached']:.2f}",
            f"{1e3 * times['recomputed']:.0f}",
            f"{1e3 * times['peer']:.0f}",
            f"{times['recomputed'] / times['cached']:.0f}x",
            f"{times['peer'] / times['cached']:.0f}x",
        ]
        for context, times in per_byte.items()
    ]
    body = (
        f"{NEW:,} new bytes from an empty prompt: **{rates['ours'] / rates['gpt2']:.1f}x** the cached GPT-2.\n\n"
        + table(["model", "parameters", "bytes/s", "weights read per byte", "bytes/s at memory bandwidth"], whole)
        + f"\n\nA plain copy reads {bandwidth / 1e9:.1f} GB/s here; weights that stay in a cache are read faster.\n\n"
        + "Milliseconds per byte after a context:\n\n"
        + table(["context", "ours, cached", "ours, recomputed", "MEGABYTE-pytorch generate", "to recomputed", "to the peer"], rows)
    )
    record("generation", "Generation", "make bench BENCHMARKS=generation", body)


def touched_bytes(model: nn.Module) -> float:
    """Bytes of weights that one generated byte reads, the global ones once per patch."""
    assert isinstance(model, Megabyte)
    wide, narrow = (sum(p.numel() * 4 for p in stage.stack.parameters()) for stage in model.stages)
    return narrow + wide / PATCH


def read_rate() -> float:
    """Bytes per second that a sum over 256 MB reads."""
    block = torch.ones(64 * 1024 * 1024)
    return 4 * block.numel() / median([timed(lambda: block.sum()) for _ in range(5)])


if __name__ == "__main__":
    main()
