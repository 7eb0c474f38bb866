"""Latency of M2-BERT (80M) as an encoder against BERT-base of Hugging Face (the paper's Table 6) or, with --peer, the official M2-BERT.

    make bench BENCHMARKS=m2_bert
    python -m benchmarks.m2_bert --peer PATH/m2/bert       # the folder bert of a copy of HazyResearch/m2; wants opt_einsum and einops

Batch 1, no mask, encoder without head; M2-BERT with the spectra of its filters made once (prepared) and without, BERT with eager attention
and with SDPA. float32; bfloat16 too where the machine multiplies it faster than float32, without the official code, which then fails.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from benchmarks.recording import interleaved, median, record, table
from subquad.config import override
from subquad.evaluation.flops import count_parameters
from subquad.evaluation.throughput import matmul_rate
from subquad.models import build_model, parse_model
from subquad.models.encoder import Encoder

LENGTHS = (512, 1024, 2048, 4096, 8192)
ATTENTION = ("sdpa", "eager")
TITLES = {
    "prepared": "M2-BERT, prepared",
    "whole": "M2-BERT",
    "official": "official M2-BERT",
    "sdpa": "BERT, SDPA",
    "eager": "BERT, eager",
}
RATIOS = {"official": "to the official", "sdpa": "to SDPA", "eager": "to eager"}
FEW, ONCE = 4096, 8192  # from here on a call takes many seconds: two runs of it, or one


def main() -> None:
    """Measures and writes the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", type=Path, help="the folder bert of the official code, HazyResearch/m2")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--slow", action="store_true", help="bfloat16 alone, once, where the machine emulates it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        rates = {dtype: matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
        if arguments.slow:
            record_slow(arguments.lengths, rates[torch.float32] / rates[torch.bfloat16])
            return
        faster = arguments.peer is None and rates[torch.bfloat16] > rates[torch.float32]
        types = [torch.float32, *([torch.bfloat16] if faster else [])]
        rows = {
            dtype: {length: measured(length, dtype, arguments.repeat, arguments.peer) for length in arguments.lengths} for dtype in types
        }
    turns = f"(2 from {FEW:,} on, for eager attention 1; 1 of each from {ONCE:,} on, without warmup)" if arguments.peer is None else ""
    body = f"Seconds, medians of {arguments.repeat} interleaved runs {turns}".rstrip() + "; ratios to the prepared M2-BERT.\n\n"
    body += "\n\n".join(f"### {str(dtype).removeprefix('torch.')}\n\n{block(times)}" for dtype, times in rows.items())
    if arguments.peer is not None:
        body += "\n\nThe official M2-BERT is the code of HazyResearch/m2 with its convolution in plain PyTorch. It has the same number of "
        body += "parameters as ours (checked at each length), and fails in bfloat16 on a CPU."
        record("m2-bert-official", "M2-BERT's latency against the official code", "python -m benchmarks.m2_bert --peer m2/bert", body)
        return
    if torch.bfloat16 not in rows:
        slower = rates[torch.float32] / rates[torch.bfloat16]
        body += f"\n\nbfloat16 is not measured: this machine has no instructions for it and is {slower:.0f} times slower with it."
    record("m2-bert-latency", "M2-BERT's latency", "make bench BENCHMARKS=m2_bert", body)


def record_slow(lengths: Sequence[int], slower: float) -> None:
    """bfloat16 where it is emulated: one run of each contender, not warmed up, and without eager attention."""
    rows = {}
    for length in lengths:
        ours, ids = m2_bert(length), torch.randint(30_000, (1, length))
        calls: dict[str, Callable[[], object]] = {
            "prepared": partial(called, ours, torch.bfloat16, ids, spectra=ours.prepare(length), output="hidden"),
            "sdpa": partial(called, bert("sdpa", length), torch.bfloat16, ids),
        }
        rows[length] = medians(length, interleaved(calls, 1, warm=False))
    body = "Seconds of a single run. The machine has no instructions for bfloat16 and multiplies square matrices in it "
    body += f"{slower:.0f} times slower than in float32.\n\n{block(rows)}"
    record(
        "m2-bert-bfloat16",
        "M2-BERT's latency in emulated bfloat16",
        f"python -m benchmarks.m2_bert --slow --lengths {' '.join(map(str, lengths))}",
        body,
    )


def m2_bert(length: int) -> Encoder:
    """The 80M model for so many ids."""
    model = build_model(override(parse_model("m2-bert-80m").model_dump(mode="json"), {"max_len": length, "head": "none"})).eval()
    assert isinstance(model, Encoder)
    return model


def bert(attention: str, length: int) -> nn.Module:
    """BERT-base of Hugging Face for so many ids."""
    config = BertConfig(max_position_embeddings=length)
    config._attn_implementation = attention
    model: nn.Module = BertModel(config, add_pooling_layer=False).eval()
    return model


def official(folder: Path, length: int) -> nn.Module:
    """The official encoder of the same model for so many ids, imported from where it is.

    Raises ``ValueError`` for a folder without it, and where it is another model than ours.
    """
    if not (folder / "src" / "bert_layers.py").is_file():
        raise ValueError(f"there is no src/bert_layers.py in {folder}: give the folder bert of a copy of HazyResearch/m2 as --peer")
    if "src" not in sys.modules:
        package = ModuleType("src")  # in place of its own __init__, which wants a trainer
        package.__path__ = [str(folder / "src")]
        sys.modules["src"] = package
        sys.path.append(str(folder / "src"))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its options, layer by layer
        layers, configs = (importlib.import_module(f"src.{name}") for name in ("bert_layers", "configuration_bert"))
        peer: nn.Module = layers.BertModel(
            configs.BertConfig(
                vocab_size=30_528,
                max_position_embeddings=length,
                use_positional_encodings=True,
                monarch_mixer_sequence_mixing=True,
                long_conv_l_max=length,
                long_conv_kernel_learning_rate=1e-3,
                hyena_lr_pos_emb=1e-5,
                hyena_w=10,
                hyena_wd=0.1,
                hyena_emb_dim=5,
                hyena_filter_order=128,
                bidirectional=True,
                residual_long_conv=True,
                use_glu_mlp=True,
                use_monarch_mlp=True,
                monarch_mlp_nblocks=4,
            ),
            add_pooling_layer=False,
        ).eval()
    if (theirs := count_parameters(peer)) != (own := count_parameters(m2_bert(length))):
        raise ValueError(f"the official model has {theirs:,} parameters and ours {own:,}: they are not the same")
    return peer


def measured(length: int, dtype: torch.dtype, repeat: int, peer: Path | None) -> dict[str, float]:
    """Median seconds of every contender at one length."""
    ours, ids = m2_bert(length), torch.randint(30_000, (1, length))
    held = ours.prepare(length)
    calls: dict[str, Callable[[], object]] = {"prepared": partial(called, ours, dtype, ids, spectra=held, output="hidden")}
    if peer is not None:
        calls["official"] = partial(called, official(peer, length), dtype, ids)
        return medians(length, interleaved(calls, repeat))
    calls["whole"] = partial(called, ours, dtype, ids, output="hidden")
    for attention in ATTENTION:
        calls[attention] = partial(called, bert(attention, length), dtype, ids)
    slow = {"eager": calls.pop("eager")} if length >= FEW else {}
    few = repeat if length < FEW else min(repeat, 2) if length < ONCE else 1
    return medians(length, interleaved(calls, few, warm=length < ONCE) | interleaved(slow, 1, warm=False))


def medians(length: int, taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The middle of each contender's times, told while the rest is measured."""
    times = {name: median(seconds) for name, seconds in taken.items()}
    print(length, times, flush=True)
    return times


def block(times: Mapping[int, Mapping[str, float]]) -> str:
    """The table of one type: seconds at each length, and ratios to ours, of the contenders that were there."""
    names = [name for name in TITLES if all(name in row for row in times.values())]
    ratios = [name for name in RATIOS if name in names]
    header = ["L", *(TITLES[name] for name in names), *(RATIOS[name] for name in ratios)]
    lines = [
        [f"{length:,}", *(f"{row[name]:.2f}" for name in names), *(f"{row[name] / row['prepared']:.2f}x" for name in ratios)]
        for length, row in times.items()
    ]
    return table(header, lines)


def called(model: Callable[..., object], dtype: torch.dtype, ids: Tensor, **named: object) -> object:
    """One pass, under autocast for half precision."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        return model(ids, **named)


if __name__ == "__main__":
    main()
