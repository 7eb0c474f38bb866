"""Generation: rows of a batch, the context's end, stop strings, streams, UTF-8 and the number of model calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from subquad.inference import generate, stream
from subquad.inference.generate import _Decoder, _Options
from subquad.inference.sampling import Sampling, draw

if TYPE_CHECKING:
    from tests.inference.conftest import Recurrence

PROMPTS = [b"", b"a", b"It was the best", b"abcd", b"a prompt that is longer than the context, by a lot"]
WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.3},
    {"top_k": 5, "min_p": 0.05},
]


def byte_by_byte(model: Any, prompt: bytes, max_bytes: int, sampling: Sampling, seed: int = 0) -> bytes:
    """The policy said slowly: whenever a row is full its oldest half goes, and forward reads the rest as a new start."""
    window: list[int] = []
    seen = torch.zeros(1, 256, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    out: list[int] = []
    context, patch = model.config.max_len, model.patch_size
    model.eval()
    for turn in range(len(prompt) + max_bytes):
        if len(window) == context:
            dropped = next(n for n in range(context + 1) if n % patch == 0 and context - n <= context // 2)
            window = window[dropped:]
        if turn < len(prompt):
            byte = prompt[turn]
        else:
            with torch.no_grad():
                logits = model(torch.tensor([[*window, 0]]))[:, len(window)]
            byte = draw(logits, sampling, [generator], seen)[0]
            out.append(byte)
        window.append(byte)
        seen[0, byte] = True
    return bytes(out)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_a_batch_equals_the_prompt_alone(model: nn.Module, way: dict[str, Any]) -> None:
    together = generate(model, PROMPTS, max_bytes=26, seed=5, **way)
    assert together == [generate(model, prompt, max_bytes=26, seed=5, **way) for prompt in PROMPTS]
    assert all(len(row) == 26 for row in together)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[2], PROMPTS[4]])
def test_cached_generation_equals_forward_byte_by_byte(model: nn.Module, prompt: bytes, way: dict[str, Any]) -> None:
    assert generate(model, prompt, max_bytes=18, seed=2, **way) == byte_by_byte(model, prompt, 18, Sampling(**way), 2)


@pytest.mark.parametrize(("context", "patch"), [(16, 4), (16, 1), (7, 1), (12, 4), (4, 4), (10, 4), (1, 1), (5, 3)])
def test_contexts_that_do_not_divide_evenly(recurrences: type[Recurrence], context: int, patch: int) -> None:
    fake = recurrences(context, patch)
    for length in range(0, 2 * context + 2, 1 if context < 10 else 3):
        prompt = bytes(range(65, 65 + length))
        assert generate(fake, prompt, max_bytes=9, seed=1) == byte_by_byte(fake, prompt, 9, Sampling(), 1)


@pytest.mark.parametrize(("context", "patch"), [(16, 4), (16, 1), (7, 1), (12, 4), (10, 4), (8, 8)])
def test_a_long_prompt_is_cut_as_if_fed_byte_by_byte(recurrences: type[Recurrence], context: int, patch: int) -> None:
    decoder = _Decoder(recurrences(context, patch), [b""], 0, _Options(Sampling(), 1, (), False, "slide"))
    held, dropped = 0, 0
    for length in range(200):
        assert decoder._num_dropped(length) == dropped + (decoder._num_dropped(held) if held == context else 0)
        if held == context:
            dropped += decoder._num_dropped(held)
            held -= decoder._num_dropped(context)
        held += 1


def test_prompt_and_continuation_split_anywhere(model: nn.Module) -> None:
    text = generate(model, b"seed", max_bytes=40, temperature=0)
    for cut in range(0, 40, 7):
        assert generate(model, b"seed" + text[:cut], max_bytes=40 - cut, temperature=0) == text[cut:]


def test_seeds(model: nn.Module) -> None:
    same = generate(model, [b"x", b"x", b"x"], max_bytes=20, seed=3)
    assert same[0] == same[1] == same[2] == generate(model, "x", max_bytes=20, seed=[3])
    different = generate(model, [b"x", b"x", b"x"], max_bytes=20, seed=[3, 4, 5])
    assert different[0] == same[0] and len(set(different)) == 3
    assert different[2] == generate(model, b"x", max_bytes=20, seed=5)


def test_calls_of_the_model_are_counted(recurrence: Recurrence) -> None:
    def calls(work: Callable[[], object]) -> list[str]:
        recurrence.calls.clear()
        work()
        return recurrence.calls.copy()

    assert calls(lambda: generate(recurrence, b"", max_bytes=16)) == ["init_state"] + ["step"] * 15
    assert calls(lambda: generate(recurrence, b"abc", max_bytes=1)) == ["init_state", "prefill"]
    assert calls(lambda: generate(recurrence, b"abc", max_bytes=3)) == ["init_state", "prefill", "step", "step"]
    assert calls(lambda: generate(recurrence, b"abc", max_bytes=0)) == []
    assert calls(lambda: generate(recurrence, b"", max_bytes=18)) == ["init_state"] + ["step"] * 15 + ["init_state", "prefill", "step"]
    pieces = stream(recurrence, b"", max_bytes=5)
    assert calls(lambda: next(pieces)) == ["init_state"]
    assert calls(lambda: next(pieces)) == ["step"]


def test_the_mode_of_every_module_is_given_back(recurrence: Recurrence) -> None:
    pieces = stream(recurrence, b"", max_bytes=3)
    next(pieces)
    assert recurrence.training and not torch.is_inference_mode_enabled()
    list(pieces)
    assert recurrence.training


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_is_the_same_text(model: nn.Module, way: dict[str, Any]) -> None:
    whole = generate(model, b"It was", max_bytes=26, seed=1, **way)
    pieces = list(stream(model, b"It was", max_bytes=26, seed=1, **way))
    assert b"".join(pieces) == whole and len(pieces) == 26
    for stops in ([whole[20:24]], [whole[8:10] + b"??", whole[9:11]], [whole[5:9], whole[7:9], whole[22:23]]):
        cut = generate(model, b"It was", max_bytes=26, seed=1, stop=stops, **way)
        first = min(whole.find(stop) + len(stop) for stop in stops if stop in whole)
        assert cut == whole[: min(first - len(stop) for stop in stops if whole[:first].endswith(stop))]
        assert b"".join(stream(model, b"It was", max_bytes=26, seed=1, stop=stops, **way)) == cut


def test_a_stream_holds_back_only_what_may_begin_a_stop(recurrences: type[Recurrence]) -> None:
    fake = recurrences(64, script=b"one <en <end> two")
    pieces = list(stream(fake, b"", max_bytes=17, stop=b"<end>"))
    assert pieces == [b"o", b"n", b"e", b" ", b"<en "]
    assert list(stream(fake, b"", max_bytes=10, stop="<end>")) == [b"o", b"n", b"e", b" ", b"<en ", b"<e"]
    assert generate(fake, b"", max_bytes=17, stop=["nothing", "two"]) == b"one <en <end> "


def test_a_stream_of_utf8_is_whole_characters(recurrences: type[Recurrence]) -> None:
    text = "aé€😀"
    fake = recurrences(64, script=text.encode())
    pieces = list(stream(fake, b"", max_bytes=10, utf8=True, temperature=0))
    assert [piece.decode() for piece in pieces] == list(text)
    assert len(list(stream(fake, b"", max_bytes=10, temperature=0))) == 10
    begun = list(stream(fake, text.encode()[:2], max_bytes=4, utf8=True, temperature=0))
    assert begun == [b"\xa9", "€".encode()]


def test_rows_that_have_stopped_do_not_disturb_the_others(model: nn.Module) -> None:
    free = generate(model, PROMPTS, max_bytes=30, seed=4)
    stop = free[2][7:9]
    stopped = generate(model, PROMPTS, max_bytes=30, seed=4, stop=stop)
    assert stopped == [row[: row.find(stop)] if stop in row else row for row in free]
    assert len(stopped[2]) <= 7 and any(len(row) == 30 for row in stopped)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=8), st.integers(0, 3), st.integers(0, 20), st.integers(0, 2**32))
def test_utf8_is_valid_whatever_the_model_wants(
    recurrences: type[Recurrence], text: str, open_bytes: int, max_bytes: int, seed: int
) -> None:
    fake = recurrences(sharpness=1.0)
    whole = text.encode() + "€😀"[open_bytes % 2].encode()
    prompt = whole[: len(whole) - open_bytes]
    missing = next(n for n in range(4) if (prompt + bytes([0x90] * n)).decode(errors="replace").count("�") == text.count("�"))
    if 0 < max_bytes < missing:
        with pytest.raises(ValueError, match="inside a character"):
            generate(fake, prompt, max_bytes=max_bytes, utf8=True, seed=seed)
        return
    written = generate(fake, prompt, max_bytes=max_bytes, utf8=True, seed=seed)
    assert len(written) == max_bytes
    if max_bytes or not missing:
        (prompt + written).decode("utf-8")


def test_utf8_in_a_batch_and_a_stream(model: nn.Module) -> None:
    prompts: list[bytes | str] = ["", "€".encode()[:2], "né", b"\xff\xf0\x9f"]
    rows = generate(model, prompts, max_bytes=30, utf8=True)
    assert rows == [generate(model, prompt, max_bytes=30, utf8=True) for prompt in prompts]
    assert b"".join(stream(model, "né", max_bytes=30, utf8=True)) == rows[2]
    rows[0].decode("utf-8")
    (b"\xf0\x9f" + rows[3]).decode("utf-8")


def test_a_str_prompt_is_its_bytes(model: nn.Module) -> None:
    assert generate(model, "né\udcff", max_bytes=9) == generate(model, "né".encode() + b"\xff", max_bytes=9)
    assert generate(model, [], max_bytes=9) == []
    mixed: list[bytes | str] = [b"a", "b"]
    assert generate(model, mixed, max_bytes=0) == [b"", b""]


def test_a_full_context_can_be_an_error(recurrence: Recurrence) -> None:
    assert len(generate(recurrence, b"abcd", max_bytes=12, on_full="error")) == 12
    for prompt, count in [(b"abcd", 13), (bytes(17), 0), (bytes(16), 1)]:
        with pytest.raises(ValueError, match="the context is 16"):
            generate(recurrence, prompt, max_bytes=count, on_full="error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": -1}, "max_bytes"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"stop": b""}, "stop"),
        ({"stop": [b"a", ""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": b"\xa9", "utf8": True}, "stop"),
        ({"seed": -1}, "seed"),
        ({"seed": "one"}, "seed"),
        ({"seed": [1, 2]}, "seed"),
        ({"on_full": "wrap"}, "on_full"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": [b"a", None]}, "prompt"),
    ],
)
def test_wrong_inputs_are_refused_at_the_call(recurrence: Recurrence, options: dict[str, Any], message: str) -> None:
    for call in (generate, stream):
        with pytest.raises(ValueError, match=message):
            call(recurrence, **{"prompt": b"a", **options})
    assert recurrence.calls == []


def test_models_that_do_not_write_bytes_are_refused(recurrences: type[Recurrence]) -> None:
    with pytest.raises(ValueError, match="token model and needs its tokenizer"):
        generate(recurrences(vocab=300), b"a")
    with pytest.raises(ValueError, match="generating or scoring needs a causal model, got Linear"):
        generate(nn.Linear(2, 2), b"a")
    with pytest.raises(ValueError, match="one prompt"):
        stream(recurrences(), [b"a"])  # type: ignore[arg-type]  # the wrong input under test
