"""Token models: bits add up to the tokens' own, land on bytes, and what is written is text cut where bytes were asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from subquad.data.documents import Document
from subquad.data.tokenizer import Tokenizer
from subquad.data.windows import Span
from subquad.inference import generate, score, stream
from subquad.inference.checks import byte_model
from subquad.inference.sampling import Sampling, draw
from subquad.inference.utf8 import Utf8State, advance
from subquad.inference.utf8 import allowed as allowed_bytes
from subquad.inference.vocab import Vocab

if TYPE_CHECKING:
    from tests.inference.conftest import Recurrence

TEXT = ("It was the best of times, it was the worst of times; déjà vu, 漢字 and 🙂🙂.\n" * 5).encode()


class Memory:
    def read(self, start: int, stop: int) -> np.ndarray:
        return np.frombuffer(TEXT, np.uint8)[start:stop]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([Span(Document("text", len(TEXT), Memory()), 0, len(TEXT))], 300)


@pytest.fixture
def model(recurrences: type[Recurrence], tokenizer: Tokenizer) -> Any:
    """A model of more ids than tokens, whose likeliest ids are likely to be those that no token has."""
    model: Any = recurrences(max_len=24, patch_size=1, vocab=304)
    model.tokenizer = tokenizer
    return model.train()


def bits_of(model: Any, ids: np.ndarray) -> Any:
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None])[0]
    return -logits.log_softmax(-1).numpy()[np.arange(len(ids)), ids] / math.log(2)


@pytest.mark.parametrize("overlap", [0, 1, 12, 23])
def test_bits_are_those_of_the_tokens_on_their_last_bytes(model: Any, tokenizer: Tokenizer, overlap: int) -> None:
    found = score(model, TEXT, overlap=overlap, batch=3)
    ids = tokenizer.encode(TEXT)
    expected, start = np.empty(len(ids)), 0
    while True:
        known = overlap if start else 0
        expected[start + known : start + 24] = bits_of(model, ids[start : start + 24])[known:]
        if start + 24 >= len(ids):
            break
        start += 24 - overlap
    assert found.bytes == found.bits.size == len(TEXT)
    assert found.total_bits == pytest.approx(expected.sum(), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(expected.sum() / len(TEXT), rel=1e-6)
    ends = tokenizer.byte_lengths[ids].cumsum() - 1
    np.testing.assert_allclose(found.bits[ends], expected, rtol=1e-5)
    assert not np.delete(found.bits, ends).any()
    assert found.word_perplexity is not None and model.training


def test_scoring_in_patches_of_tokens(recurrences: type[Recurrence], tokenizer: Tokenizer) -> None:
    model: Any = recurrences(max_len=16, patch_size=4, vocab=300)
    model.tokenizer = tokenizer
    plain, late = (score(model, TEXT, strided=strided) for strided in (False, True))
    assert plain.bytes == late.bytes == len(TEXT) and plain.total_bits != late.total_bits
    told: list[tuple[int, int]] = []
    score(model, TEXT, sliding=True, progress=lambda done, size: told.append((done, size)))
    assert told[-1] == (len(tokenizer.encode(TEXT)),) * 2


def test_edges_of_scoring(model: Any, tmp_path: Path) -> None:
    assert score(model, b"").bits_per_byte is None and score(model, b"").bytes == 0
    (tmp_path / "text.txt").write_bytes(TEXT)
    assert np.array_equal(score(model, tmp_path / "text.txt").bits, score(model, TEXT).bits)
    options: list[tuple[dict[str, Any], str]] = [({"overlap": 24}, "the context of 24 tokens"), ({"strided": True}, "strided")]
    for wrong, message in options:
        with pytest.raises(ValueError, match=message):
            score(model, TEXT, **wrong)
    with pytest.raises(ValueError, match=f"byte {len(TEXT)} is not UTF-8.*use a byte model"):
        score(model, TEXT + b"\xe6")


def token_by_token(model: Any, tokenizer: Tokenizer, prompt: bytes, max_bytes: int, sampling: Sampling, seed: int) -> bytes:
    """The slow twin: a forward pass for every token, the context's oldest half dropped when it is full."""
    held, written = tokenizer.encode(prompt).tolist(), b""
    seen, may = torch.zeros(1, 304, dtype=torch.bool), torch.arange(304)[None] < 300
    seen[0, held] = True
    generator = torch.Generator().manual_seed(seed)
    while len(written) < max_bytes:
        while len(held) >= 24:
            del held[:12]
        with torch.no_grad():
            logits = model(torch.tensor([[*held, 0]]))[:, -1]
        (one,) = draw(logits, sampling, [generator], seen if sampling.repetition_penalty else None, may)
        held.append(one)
        seen[0, one] = True
        written += tokenizer.pieces[one]
    return written[:max_bytes]


@pytest.mark.parametrize("way", [{}, {"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.5}])
@pytest.mark.parametrize("prompt", [b"", b"It was", TEXT[:200]])
def test_cached_generation_equals_forward_token_by_token(model: Any, tokenizer: Tokenizer, prompt: bytes, way: dict[str, Any]) -> None:
    for max_bytes in (0, 1, 2, 60):
        expected = token_by_token(model, tokenizer, prompt, max_bytes, Sampling(**way), 3)
        assert generate(model, prompt, max_bytes=max_bytes, seed=3, **way) == expected and len(expected) == max_bytes
        assert b"".join(stream(model, prompt, max_bytes=max_bytes, seed=3, **way)) == expected


def test_a_row_of_a_batch_equals_the_prompt_alone(model: Any) -> None:
    prompts = [b"", b"It was the best", "漢".encode(), TEXT[:130]]
    for utf8 in (False, True):
        together = generate(model, prompts, max_bytes=70, seed=[1, 2, 3, 4], utf8=utf8)
        assert together == [generate(model, prompt, max_bytes=70, seed=one, utf8=utf8) for one, prompt in enumerate(prompts, 1)]


def test_stop_strings_are_found_inside_tokens(model: Any, tokenizer: Tokenizer) -> None:
    whole = generate(model, b"It was", max_bytes=80, seed=5)
    lengths = tokenizer.byte_lengths[tokenizer.encode(b"It was the best")]
    assert lengths.max() > 1
    for start in range(1, 70, 5):
        for length in (1, 2, 5):
            stop = whole[start : start + length]
            expected = whole[: whole.index(stop)]
            assert generate(model, b"It was", max_bytes=80, seed=5, stop=[stop, b"\x00never"]) == expected
            assert b"".join(stream(model, b"It was", max_bytes=80, seed=5, stop=[stop, b"\x00never"])) == expected


def test_utf8_of_tokens(model: Any) -> None:
    for seed in range(8):
        for max_bytes in (1, 2, 5, 33):
            written = generate(model, "déjà".encode(), max_bytes=max_bytes, seed=seed, utf8=True, temperature=2.0)
            written.decode()
            assert len(written) == max_bytes


def test_the_tokens_that_keep_a_text_valid(tokenizer: Tokenizer) -> None:
    vocab = Vocab(304, tokenizer)
    nonempty = vocab.nonempty()
    assert nonempty is not None and nonempty.tolist() == [True] * 300 + [False] * 4
    assert Vocab(300, tokenizer).nonempty() is None and Vocab(256, None).nonempty() is None
    singles = [tokenizer.pieces.index(bytes([byte])) for byte in range(256)]
    following = advance(Utf8State(), 0xE6)
    assert following is not None
    for state in (Utf8State(), following):
        for left in (1, 2, 3, 4, 9):
            mask = vocab.valid_utf8(state, left)
            assert np.array_equal(mask[singles], allowed_bytes(state, left)) and not mask[300:].any()
            assert np.array_equal(Vocab(256, None).valid_utf8(state, left), allowed_bytes(state, left))
    words = [one for one in range(300) if tokenizer.pieces[one] in (b" was", b" the", b"it")]
    assert words and vocab.valid_utf8(Utf8State(), 4)[words].all() and not vocab.valid_utf8(following, 9)[words].any()


def test_wrong_prompts_are_refused_at_the_call(model: Any) -> None:
    for call in (generate, stream):
        with pytest.raises(ValueError, match="byte 1 is not UTF-8"):
            call(model, b"a\xff")
        with pytest.raises(ValueError, match="need .* tokens and the context is 24"):
            call(model, b"It was", max_bytes=30, on_full="error")


def test_a_token_model_is_no_byte_model(model: Any, recurrences: type[Recurrence], tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="expected a byte model, got a token model"):
        byte_model(model)
    model.tokenizer = None
    for call in (generate, score, byte_model):
        with pytest.raises(ValueError, match="token model and needs its tokenizer"):
            call(model, *([b"a"] if call is not byte_model else []))
