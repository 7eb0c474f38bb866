"""Decoding a long convolution and a Hyena language model: tiles, direct sums, and recomputing everything.

    make bench BENCHMARKS=hyena_generation

The convolution is one layer's of width 256; the model has two layers of that width. Batch 1, float32, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.recording import median, record, table
from subquad.layers.hyena import HyenaConfig
from subquad.layers.long_filter import ImplicitFilterConfig
from subquad.layers.stack import StackConfig
from subquad.models.language_model import LanguageModel, LanguageModelConfig
from subquad.ops.online_conv import OnlineFilter, init_online_conv, prefill_online_conv

DIM, DEPTH = 256, 2
LENGTHS = (1024, 4096, 8192, 32_768, 65_536)
CONTEXTS = (1024, 4096, 16_384)
SAMPLED = 64  # direct steps timed at each of some places


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        layer = [layer_row(length) for length in LENGTHS]
        model = [model_row(context) for context in CONTEXTS]
    body = (
        f"One long convolution, {DIM} channels: microseconds per step, mean over all steps of the length (direct: {SAMPLED} steps at each "
        "of eight positions).\n\n"
        + table(["L", "tiled", "direct", "ratio"], layer)
        + f"\n\nA language model of {DEPTH} layers, width {DIM}: milliseconds per byte while the whole context is generated from an empty "
        "prompt, and for the same bytes by recomputing the context each time (mean of forward passes at 16 lengths; prepared: with "
        "precomputed spectra).\n\n" + table(["context", "cached", "recomputed", "ratio", "recomputed, prepared", "ratio"], model)
    )
    record("hyena-generation", "Generation with Hyena", "make bench BENCHMARKS=hyena_generation", body)


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def layer_row(length: int) -> list[str]:
    """Steps of one convolution."""
    k = torch.randn(DIM, length)
    filter_ = OnlineFilter.of(k, length)

    def tiled() -> None:
        state = init_online_conv(filter_, 1)
        u = torch.randn(1, 1, DIM)
        for _ in range(length):
            prefill_online_conv(u, state)

    steps = timed(tiled) / length
    inputs = torch.randn(1, DIM, length)
    places = [length * (index + 1) // 8 for index in range(8)]
    direct = sum(timed(partial(direct_steps, inputs, k, at)) for at in places) / (8 * SAMPLED)
    return [f"{length:,}", f"{1e6 * steps:.0f}", f"{1e6 * direct:.0f}", f"{direct / steps:.0f}x"]


def direct_steps(inputs: Tensor, k: Tensor, end: int) -> None:
    """Some times one output as the dot product with all inputs so far; the filter already lies backwards."""
    for _ in range(SAMPLED):
        torch.linalg.vecdot(inputs[..., :end], k[:, k.shape[1] - end :])


def language_model(context: int) -> LanguageModel:
    """Order 2, the filter of the paper's language models."""
    mixer = HyenaConfig(filter=ImplicitFilterConfig(features=33, width=64))
    return LanguageModel(LanguageModelConfig(max_len=context, stack=StackConfig(dim=DIM, depth=DEPTH, mixer=mixer))).eval()


def model_row(context: int) -> list[str]:
    """Bytes of a whole model."""
    model = language_model(context)

    def cached() -> None:
        state = model.init_state(1)
        for _ in range(context - 1):
            model.step(state.logits.argmax(-1), state)

    steps = timed(cached) / context
    lengths = [context * (index + 1) // 16 for index in range(16)]
    held = model.prepare(context)
    cells = [f"{context:,}", f"{1e3 * steps:.2f}"]
    for spectra in (None, held):
        calls = [partial(model, torch.zeros(1, n, dtype=torch.long), spectra=spectra) for n in lengths]
        passes = [median([timed(call) for _ in range(3)]) for call in calls]
        recomputed = sum(passes) / len(passes)
        cells += [f"{1e3 * recomputed:.1f}", f"{recomputed / steps:.0f}x"]
    return cells


if __name__ == "__main__":
    main()
