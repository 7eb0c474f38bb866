"""A small experiment on a text of a few kilobytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY = {"stack.dim": 16, "max_len": 32}
TINY_MEGABYTE = {"stages.0.dim": 16, "stages.1.dim": 16, "max_len": 32}


def write_text(folder: Path) -> Path:
    """A text of 12 kilobytes."""
    path = folder / "text.txt"
    path.write_bytes(b"".join(b"line %d of a text that a model can learn\n" % number for number in range(300)))
    return path


def two_models(text: Path) -> dict[str, Any]:
    """Two causal models on one text, with two seeds; the learning rate of one is chosen."""
    return {
        "title": "A small one",
        "about": "Shows that it works.",
        "models": {
            "megabyte": {"preset": "megabyte-tiny", "set": TINY_MEGABYTE, "lr": 0.01},
            "transformer": {"preset": "transformer-tiny", "set": TINY},
        },
        "data": {"text": {"paths": [str(text)], "score_bytes": 200}},
        "budget": {"bytes": 640},
        "seeds": [0, 1],
        "rates": {"among": [0.001, 0.01], "data": "text", "share": 0.5},
        "train": {
            "batch": 2,
            "threads": 1,
            "dtype": "float32",
            "device": "cpu",
            "schedule.warmup": 2,
            "eval.every": 5,
            "save.every": 5,
        },
        "score": ["basic", "strided"],
    }


def write_labels(folder: Path) -> Path:
    """A table of 60 texts of two classes."""
    path = folder / "moods.tsv"
    path.write_text("".join(f"{('bad', 'good')[n % 2]}\t{('poor', 'fine')[n % 2]} {n}\n" for n in range(60)))
    return path


def two_encoders(text: Path, labels: Path) -> dict[str, Any]:
    """Two encoders pre-trained on a text and then fine-tuned on labels, and one of them fine-tuned from fresh weights."""
    tuning = {"steps": 12, "columns": {"text": 1, "label": 0}, "train": {"batch": 8, "optim.lr": 0.02, "eval.every": 6}}
    moods = {"paths": str(labels), "fractions": [0.6, 0.2, 0.2]}
    values = two_models(text)
    return values | {
        "models": {"bert": {"preset": "bert-tiny", "set": TINY}, "m2": {"preset": "m2-bert-tiny", "set": TINY}},
        "data": {
            "text": values["data"]["text"],
            "moods": moods | {"labels": tuning | {"init": "text", "set": {"dropout": 0.1}}},
            "fresh": moods | {"labels": tuning, "only": ["m2"]},
        },
        "budget": {"steps": 6},
        "rates": None,
        "seeds": [0],
        "score": ["basic"],
    }
