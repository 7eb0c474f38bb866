"""Scores: against forward on single windows, and against a slow walk that scores one byte at a time."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from subquad.data.windows import whole_span
from subquad.errors import RunError
from subquad.inference import Score, score, score_files, total
from subquad.inference.score import _count_words

if TYPE_CHECKING:
    from tests.inference.conftest import Recurrence

TEXT = "It was the best of times, it was the worst of times, né €, it was the age of wisdom ...".encode()


def bits_of(model: Any, data: bytes, start: int, at: int) -> float:
    """Bits of byte ``at`` read from ``start`` on."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([list(data[start : at + 1])]))[0, -1].double()
    return float(-logits.log_softmax(-1)[data[at]] / math.log(2))


def slow(model: Any, data: bytes, overlap: int = 0, strided: bool = False) -> list[float]:
    """Each byte by the rules said in words: its window, its place in the patch, its pass."""
    length, patch = model.config.max_len, model.patch_size
    half = patch // 2
    out: list[float] = []
    for at in range(len(data)):
        start = 0
        while at >= start + length:
            start += length - overlap
        late = strided and at - start >= half and (at - start) % patch >= half
        out.append(bits_of(model, data, start + half if late else start, at))
    return out


@pytest.mark.parametrize("overlap", [0, 5, 15])
@pytest.mark.parametrize("strided", [False, True])
def test_windows_equal_the_slow_walk(model: nn.Module, overlap: int, strided: bool) -> None:
    if strided and model.patch_size == 1:
        with pytest.raises(ValueError, match="patches"):
            score(model, TEXT, strided=True)
        return
    expected = np.array(slow(model, TEXT[:50], overlap, strided))
    for size in [0, 1, 15, 16, 17, 19, 32, 33, 50]:
        found = score(model, TEXT[:size], overlap=overlap, strided=strided, batch=3)
        np.testing.assert_allclose(found.bits, expected[:size], rtol=1e-6, atol=1e-6)
        assert found.bits.dtype == np.float32 and found.bytes == size


@pytest.mark.parametrize("patch", [2, 3, 5, 8, 16])
def test_strided_at_odd_patches_and_with_sliding(recurrences: type[Recurrence], patch: int) -> None:
    fake = recurrences(max_len=15, patch_size=patch)
    found = score(fake, TEXT[:40], sliding=True, strided=True)
    np.testing.assert_allclose(found.bits, slow(fake, TEXT[:40], 7, True), rtol=1e-6, atol=1e-6)


def test_a_single_window_is_forward(model: nn.Module) -> None:
    model.eval()
    logits = model(torch.tensor([list(TEXT[:16])]))[0].detach()
    bits = -logits.log_softmax(-1)[range(16), list(TEXT[:16])] / math.log(2)
    found = score(model, TEXT[:16])
    np.testing.assert_allclose(found.bits, bits.numpy(), rtol=1e-6)
    assert found.bits_per_byte == pytest.approx(float(bits.mean()), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"sliding": True}, {"overlap": 3, "strided": True}])
def test_the_batch_size_does_not_matter(model: nn.Module, options: dict[str, Any]) -> None:
    if model.patch_size == 1:
        options = {**options, "strided": False}
    scores = [score(model, TEXT, batch=batch, **options) for batch in (1, 2, 4, 100, None)]
    for other in scores[1:]:
        assert other.total_bits == pytest.approx(scores[0].total_bits, rel=1e-9)


def test_files_and_their_total(recurrence: Recurrence, tmp_path: Path) -> None:
    parts = {"a.txt": TEXT, "empty": b"", "b.bin": b"\xff\x00" * 20}
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    scores = dict(score_files(recurrence, [tmp_path / name for name in parts]))
    for name, data in parts.items():
        np.testing.assert_array_equal(scores[tmp_path / name].bits, score(recurrence, data).bits)
    np.testing.assert_array_equal(score(recurrence, str(tmp_path / "a.txt")).bits, score(recurrence, TEXT).bits)
    whole = total(scores.values())
    assert whole.bytes == sum(map(len, parts.values())) and whole.word_perplexity is None
    assert whole.total_bits == pytest.approx(sum(each.total_bits for each in scores.values()))
    assert total([]).bits_per_byte is None


def test_what_is_packed_is_scored_unpacked(recurrence: Recurrence, tmp_path: Path) -> None:
    expected = score(recurrence, TEXT).bits
    (tmp_path / "a.gz").write_bytes(gzip.compress(TEXT))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").write_bytes(TEXT)
    (tmp_path / "folder/b.txt").write_bytes(TEXT[:20])
    np.testing.assert_array_equal(score(recurrence, tmp_path / "a.gz").bits, expected)
    np.testing.assert_array_equal(score(recurrence, tmp_path / "folder").bits, [*expected, *score(recurrence, TEXT[:20]).bits])


def test_a_file_that_shrinks_is_an_error(recurrence: Recurrence, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT * 10)
    with pytest.raises(RunError, match=r"a\.txt shrank while in use"):
        score(recurrence, tmp_path / "a.txt", batch=1, progress=lambda done, size: os.truncate(tmp_path / "a.txt", 20))


def test_nothing_is_no_bits(recurrence: Recurrence) -> None:
    empty = score(recurrence, b"")
    assert empty.bytes == 0 and empty.bits_per_byte is None and empty.word_perplexity is None and empty.total_bits == 0


def test_words_and_characters_may_cross_the_edges_of_chunks() -> None:
    for chunk in (1, 2, 3, 7, 1000):
        assert _count_words(whole_span(TEXT, "text").document, chunk) == len(TEXT.decode().split())


def test_word_perplexity(recurrence: Recurrence) -> None:
    found = score(recurrence, TEXT)
    assert found.bits_per_byte is not None
    assert found.word_perplexity == pytest.approx(2 ** (found.bits_per_byte * found.bytes / len(TEXT.decode().split())))
    assert score(recurrence, b"a \xff").word_perplexity is None
    assert score(recurrence, "né".encode()[:2]).word_perplexity is None
    assert score(recurrence, b" \n ").word_perplexity is None
    assert Score(np.full(9000, 8, np.float32), 0.0, 1).word_perplexity == math.inf


def test_a_prompt_leaves_room_for_a_text(recurrence: Recurrence) -> None:
    longest = recurrence.max_len - 1
    assert score(recurrence, b"ab", prompt=b"x" * longest).bytes == 2
    with pytest.raises(ValueError, match=rf"the prompt has {longest + 1} ids and the context is {longest + 1}, .*: shorten it"):
        score(recurrence, b"ab", prompt=b"x" * (longest + 1))


def test_progress_and_mode(recurrence: Recurrence) -> None:
    told: list[tuple[int, int]] = []
    score(recurrence, TEXT, sliding=True, batch=2, progress=lambda done, size: told.append((done, size)))
    assert told == sorted(told) and told[-1] == (len(TEXT), len(TEXT)) and len(told) > 2
    assert recurrence.training


def test_wrong_inputs_are_refused_at_the_call(recurrence: Recurrence, recurrences: type[Recurrence], tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"overlap": 16}, "overlap"),
        ({"overlap": -1}, "overlap"),
        ({"overlap": 2, "sliding": True}, "sliding"),
        ({"batch": 0}, "batch"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            score(recurrence, TEXT, **options)
    with pytest.raises(ValueError, match="strided"):
        score(recurrences(patch_size=1), TEXT, strided=True)
    with pytest.raises(ValueError, match="token model"):
        score(recurrences(vocab=300), TEXT)
    for path, message in [(tmp_path, "got none"), (tmp_path / "none", "does not exist"), (3, "got int")]:
        with pytest.raises(ValueError, match=message):
            score(recurrence, path)  # type: ignore[arg-type]  # a wrong type is among the inputs under test
    with pytest.raises(ValueError, match="does not exist"):
        score_files(recurrence, [tmp_path / "none"])


def test_a_damaged_model_is_an_error(recurrence: Recurrence) -> None:
    with torch.no_grad():
        recurrence.output[0, 0] = math.nan
    with pytest.raises(RunError, match="not finite"):
        score(recurrence, TEXT)
