"""The demo: train a MEGABYTE and a byte Transformer on real text for about three minutes each, then compare them with compressors.

    make demo                                   (or: python examples/demo.py --out runs/demo)

Both are scored on the last tenth of the text, which neither has seen, beside xz -9 and zstd -19 alone and primed with the training text.
Steps and seed are fixed; the steps are sized for about three minutes each on two idle cores, in the dtype that ``auto`` gives there.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
from pathlib import Path
from typing import Any

import torch

import subquad
from subquad.comparison.page import write_page
from subquad.comparison.results import Baseline, Outcome, Results
from subquad.comparison.tables import plain
from subquad.objectives.next_token import mean_by_part
from subquad.run_log import read_run_log
from subquad.sections import Passage
from subquad.system import as_json, write_atomic

TEXT = Path(__file__).parent / "data" / "tinyshakespeare.txt"
DATA = "Shakespeare"
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
    steps = {"steps": arguments.steps} if arguments.steps else {}
    outcomes = tuple(run(preset, options | steps, out / preset, held_out) for preset, options in MODELS.items())
    results = Results(
        title="MEGABYTE on Shakespeare",
        about=f"Both models are trained on nine tenths of {TEXT.name} and scored on the last tenth, which neither has seen.",
        machine="",
        command="make demo",
        budget="",
        models=tuple(MODELS),
        data=(DATA,),
        outcomes=outcomes,
        baselines=compressors(text[: len(text) - len(held_out)], held_out),
    )
    write_atomic(out / "results.json", as_json(results.record()))
    page = write_page(results, out)
    print(f"\n{plain(results)}\n\n{outcomes[0].model} writes:\n{outcomes[0].sample}\n\nThe report, with pictures: {page}")


def clear(out: Path) -> None:
    """Removes an earlier demo, and nothing else."""
    found = list(out.iterdir()) if out.exists() else []
    figures = ("report", "curve_", "inside_patch")
    if any(path.name not in {*MODELS, "results.json"} and not path.name.startswith(figures) for path in found):
        raise SystemExit(f"{out} holds other things than a demo: give an --out that is new")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def run(preset: str, options: dict[str, Any], out: Path, held_out: bytes) -> Outcome:
    """Trains one preset, scores it and lets it write."""
    print(f"\ntraining {preset} for {options['steps']} steps", flush=True)
    subquad.train(preset, str(TEXT), out, {**RECIPE, **options})
    record = read_run_log(out)
    if record.ended != "finished" or record.last is None:
        raise SystemExit(f"the demo was stopped; what it trained so far is in {out}")
    model = subquad.load(out, device="cuda" if torch.cuda.is_available() else "cpu")
    score = subquad.score(model, held_out)
    assert score.bits_per_byte is not None and isinstance(model.patch_size, int)
    first = held_out.index(b"\n\n") + 2
    piece = slice(first, first + 600)
    return Outcome(
        cell=preset,
        model=preset,
        data=DATA,
        seed=0,
        lr=options["optim.lr"],
        role="final",
        status="done",
        loss={"basic": score.bits_per_byte},
        inside=mean_by_part([score.bits], model.patch_size, model.patch_size) if model.patch_size > 1 else [],
        scored_bytes=len(held_out),
        parameters=record.parameters,
        training_bytes=record.last.bytes,
        training_seconds=record.last.seconds,
        curve=[(None, point.seconds, point.bytes, point.loss) for point in record.valid],
        sample="ROMEO:\n" + subquad.generate(model, "ROMEO:\n", max_bytes=400, temperature=0.8, utf8=True).decode(),
        passage=Passage("Held-out text", held_out[piece], score.bits[piece].tolist(), model.patch_size, first % model.patch_size),
        config=record.config,
        command=record.command or "",
    )


def compressors(seen: bytes, held_out: bytes) -> tuple[Baseline, ...]:
    """xz and zstd on the held-out part alone, and the bytes that it adds after the training text."""
    import zstandard

    packers = {
        "xz -9": lambda data: lzma.compress(data, preset=9),
        "zstd -19": lambda data: zstandard.ZstdCompressor(level=19).compress(data),
    }
    baselines = []
    for name, pack in packers.items():
        alone, primed = len(pack(held_out)), len(pack(seen + held_out)) - len(pack(seen))
        baselines.append(Baseline(name, DATA, 8 * alone / len(held_out), "the held-out part alone"))
        baselines.append(Baseline(f"{name}, primed", DATA, 8 * primed / len(held_out), "after the training text"))
    return tuple(baselines)


if __name__ == "__main__":
    main()
