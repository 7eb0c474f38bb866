"""The demo: train a MEGABYTE and a byte Transformer on real text for about three minutes each, then compare them with compressors.

    make demo                                   (or: python examples/demo.py --out runs/demo)

Both are scored on the last tenth of the text, which neither has seen, beside xz -9 and zstd -19 alone and primed with the training text.
Steps and seed are fixed; the steps are sized for about three idle minutes each on two cores, in float32 or bfloat16, whichever a step
of each shows to be faster there.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import time
from pathlib import Path
from typing import Any

import torch

import subquad
from subquad.api import info
from subquad.evaluation.passage import Passage
from subquad.evaluation.report import Baseline, Entry, write_comparison
from subquad.objectives.next_token import mean_by_part
from subquad.system import write_atomic

TEXT = Path(__file__).parent / "data" / "tinyshakespeare.txt"
HELD_OUT = 0.1
RECIPE: dict[str, Any] = {
    "data.split": "range",
    "data.fractions": [0.895, 0.005, HELD_OUT],
    "schedule.warmup": 50,
    "eval.sample_bytes": 200,
    "eval.prompt": "ROMEO:\n",
}
# Steps for about three minutes each. MEGABYTE gains from many small steps; the Transformer learns the same from either batch.
MODELS: dict[str, dict[str, Any]] = {
    "megabyte-small": {"steps": 2900, "batch": 1, "optim.lr": 3e-3, "eval.every": 400, "save.every": 1200},
    "transformer-small": {"steps": 2000, "batch": 2, "optim.lr": 4e-3, "eval.every": 200, "save.every": 600},
}


def main() -> None:
    """Runs the whole demo and says where the report is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the runs and the report; made anew")
    parser.add_argument("--steps", type=int, help="steps of both models, for a quick look")
    arguments = parser.parse_args()
    text = TEXT.read_bytes()
    held_out = text[len(text) - int(HELD_OUT * len(text)) :]
    out: Path = arguments.out
    clear(out)
    entries, results = [], {}
    for preset, own in MODELS.items():
        entry, figures = run(preset, own | ({"steps": arguments.steps} if arguments.steps else {}), out / preset, held_out)
        entries.append(entry)
        results[preset] = figures
    baselines = compressors(text[: len(text) - len(held_out)], held_out)
    results |= {baseline.name: {"bits_per_byte": round(baseline.bits_per_byte, 4)} for baseline in baselines}
    page = write_comparison(out / "report.html", entries, baselines, title="MEGABYTE on Shakespeare", command="make demo")
    write_atomic(out / "results.json", json.dumps(results, indent=2).encode())
    print("\nbits per byte of the held-out tenth")
    for name, figures in results.items():
        print(f"  {name:28} {figures['bits_per_byte']:.3f}")
    print(f"\n{entries[0].name} writes:\n{entries[0].sample}\n\nThe report, with pictures: {page}")


def clear(out: Path) -> None:
    """Removes an earlier demo, and nothing else."""
    found = list(out.iterdir()) if out.exists() else []
    if any(path.name not in {*MODELS, "results.json"} and not path.name.startswith("report") for path in found):
        raise SystemExit(f"{out} holds other things than a demo: give an --out that is new")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def run(preset: str, options: dict[str, Any], out: Path, held_out: bytes) -> tuple[Entry, dict[str, Any]]:
    """Trains one preset, scores it and lets it write."""
    print(f"\ntraining {preset} for {options['steps']} steps", flush=True)
    start = time.perf_counter()
    subquad.train(preset, str(TEXT), out, {**RECIPE, **options})
    taken = time.perf_counter() - start
    if info(out)["ended"] != "finished":
        raise SystemExit(f"the demo was stopped; what it trained so far is in {out}")
    model = subquad.load(out, device="cuda" if torch.cuda.is_available() else "cpu")
    score = subquad.score(model, held_out)
    assert score.bits_per_byte is not None and isinstance(model.patch_size, int)
    sample = "ROMEO:\n" + subquad.generate(model, "ROMEO:\n", max_bytes=400, temperature=0.8, utf8=True).decode()
    first = held_out.index(b"\n\n") + 2
    passage = Passage(held_out[first : first + 600], score.bits[first : first + 600], model.patch_size, first % model.patch_size)
    figures = {
        "bits_per_byte": round(score.bits_per_byte, 4),
        "steps": options["steps"],
        "seconds": round(taken, 1),
        "bits_inside_patch": [round(bits, 4) for bits in mean_by_part([score.bits], model.patch_size, model.patch_size)]
        if model.patch_size > 1
        else None,
    }
    return Entry(preset, out, score.bits_per_byte, sample, passage), figures


def compressors(seen: bytes, held_out: bytes) -> list[Baseline]:
    """xz and zstd on the held-out part alone, and the bytes that it adds after the training text."""
    import zstandard

    packers = {
        "xz -9": lambda data: lzma.compress(data, preset=9),
        "zstd -19": lambda data: zstandard.ZstdCompressor(level=19).compress(data),
    }
    found = []
    for name, pack in packers.items():
        alone, primed = len(pack(held_out)), len(pack(seen + held_out)) - len(pack(seen))
        found.append(Baseline(name, 8 * alone / len(held_out), "the held-out part alone"))
        found.append(Baseline(f"{name}, primed", 8 * primed / len(held_out), "after the training text"))
    return found


if __name__ == "__main__":
    main()
