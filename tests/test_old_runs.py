"""Runs of version 0.1.0 load and give what that version gave: bits a byte, embeddings, class probabilities, numbers, figures of the run.

``runs_0_1_0`` holds a tiny run of every kind of model and objective, and ``expected.json`` what 0.1.0 made of them. Weights are the same
bit for bit on every machine; outputs agree up to rounding, in which machines differ.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import subquad
from subquad import api, manifest
from subquad.training.config import read

RUNS = Path(__file__).parent / "runs_0_1_0"
EXPECTED: dict[str, dict[str, Any]] = json.loads((RUNS / "expected.json").read_text(encoding="utf-8"))
TEXT = b"".join(b"line %d of a text that a small model can learn\n" % number for number in range(200))[:500]
TEXTS = [b"good fine film 1", b"a", b"bad poor film 222"]


@pytest.mark.parametrize("name", EXPECTED)
def test_its_weights_are_loaded_bit_for_bit(name: str) -> None:
    digest = hashlib.sha256()
    for key, weight in sorted(subquad.load(RUNS / name).state_dict().items()):
        digest.update(key.encode() + weight.numpy().tobytes())
    assert digest.hexdigest() == EXPECTED[name]["weights_sha256"]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_gives_what_it_gave(name: str) -> None:
    manifest.check(RUNS / name)
    model, expected = subquad.load(RUNS / name), EXPECTED[name]
    outputs: Any
    if "bits" in expected:
        outputs, true = subquad.score(model, TEXT).bits, expected["bits"]
    elif "embeddings" in expected:
        outputs, true = subquad.embed(model, TEXTS), expected["embeddings"]
    elif api.is_regression(model):
        outputs, true = subquad.regress(model, TEXTS), expected["outputs"]
    else:
        outputs, true = [list(text.probabilities.values()) for text in subquad.classify(model, TEXTS)], expected["outputs"]
    np.testing.assert_allclose(outputs, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_its_settings_and_log_are_read(name: str) -> None:
    assert read(RUNS / name).steps == 6
    info = api.info(RUNS / name)
    assert {key: info[key] for key in EXPECTED[name]["info"]} == EXPECTED[name]["info"]
