"""What is PerceiverAR's own: windows of latents, the span of a training step, sizes, costs and configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from subquad.config import parse, with_changes
from subquad.evaluation.flops import count_flops, count_parameters
from subquad.layers.stack import Stack
from subquad.models import presets
from subquad.models.perceiver_ar import PerceiverAR, PerceiverARConfig
from tests.models.cases import CASES, build, hyena, hyena_stack, perceiver_ar, stack

LENGTH = 37


def model_of(config: PerceiverARConfig) -> PerceiverAR:
    model = build(config)
    assert isinstance(model, PerceiverAR)
    return model


def window_start(t: int, latents: int) -> int:
    return max(0, (t // (latents // 2) - 1) * (latents // 2))


def direct_forward(model: PerceiverAR, ids: Tensor) -> Tensor:
    """Slow twin of ``forward`` for one sequence: each position by itself, from the start of its window."""
    vectors = torch.cat((model.start.unsqueeze(0), model.embedding(ids[:-1])))
    reader, rows = model.reader, []
    assert reader.mixer_norm and reader.feedforward and reader.feedforward_norm
    for t in range(len(ids)):
        first = window_start(t, model.config.latents)
        latents = []
        for s in range(first, t + 1):
            read = vectors[s] + reader.mixer(reader.mixer_norm(vectors[: s + 1]).unsqueeze(0))[0, -1]
            latents.append(read + reader.feedforward(reader.feedforward_norm(read)))
        y = model.latents.stack(torch.stack(latents).unsqueeze(0))[0, -1]
        rows.append(y @ model.embedding.weight.T if model.head is None else model.head(y))
    return torch.stack(rows)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("perceiver-ar")])
@torch.no_grad()
def test_equals_one_position_at_a_time(name: str) -> None:
    config = CASES[name]
    assert isinstance(config, PerceiverARConfig)
    model, ids = model_of(config), torch.randint(256, (19,))
    torch.testing.assert_close(model(ids.unsqueeze(0))[0], direct_forward(model, ids), rtol=0, atol=1e-9)


def test_a_position_reads_all_bytes_before_it() -> None:
    model, ids = model_of(perceiver_ar(4)), torch.arange(LENGTH).unsqueeze(0)
    logits = model(ids)
    for t in range(LENGTH):
        gradient = torch.autograd.grad(logits[0, t].sin().sum(), model.embedding.weight, retain_graph=True)[0]
        assert (gradient[:LENGTH].abs().sum(1) > 0).tolist() == [s < t for s in range(LENGTH)]


@pytest.mark.parametrize("latents", [2, 4, 8, 16, 36, 40])
@torch.no_grad()
def test_a_window_by_itself_equals_forward_where_it_counts(latents: int) -> None:
    model, ids = model_of(perceiver_ar(latents)), torch.randint(256, (2, LENGTH))
    whole, seen = model(ids), torch.zeros(LENGTH, dtype=torch.bool)
    for first in range(0, LENGTH, latents // 2):
        end = min(first + latents, LENGTH)
        logits = model(ids, (first, end))
        assert logits.shape == (2, end - first, 256)
        own = [t - first for t in range(first, end) if window_start(t, latents) == first]
        torch.testing.assert_close(logits[:, own], whole[:, [first + t for t in own]], rtol=0, atol=1e-9)
        seen[[first + t for t in own]] = True
    assert seen.all()


@torch.no_grad()
def test_a_span_sees_nothing_of_itself_or_later() -> None:
    model, ids = model_of(perceiver_ar(8)), torch.randint(256, (1, LENGTH))
    before = model(ids, (12, 20))
    for s in (3, 13, 19, 25):
        changed = ids.clone()
        changed[0, s] = (changed[0, s] + 1) % 256
        moved = (model(changed, (12, 20)) - before).abs().sum(-1)[0] > 1e-9
        assert moved.tolist() == [s < t for t in range(12, 20)]


@pytest.mark.parametrize("length", [1, 3, 7, 8, 9, 12, 13, 16, 37, 40])
def test_training_learns_the_windows_that_forward_runs(length: int) -> None:
    spans = model_of(perceiver_ar(8)).training_spans(length)
    assert spans == [(first, min(first + 8, length)) for first in range(0, length, 4) if first == 0 or first + 4 < length]
    assert {window_start(t, 8) for t in range(length)} == {first for first, _ in spans}


@pytest.mark.parametrize("span", [(0, 9), (30, 38), (5, 5), (-1, 3)])
def test_wrong_spans(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a span must be within 37 ids and hold 1 to 8 positions"):
        model_of(perceiver_ar(8))(torch.zeros(1, LENGTH, dtype=torch.long), span)


@torch.no_grad()
def test_decoding_holds_half_a_window_and_runs_the_stack_twice_a_position(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = model_of(perceiver_ar(8)), 0
    prefill = Stack.prefill

    def counted(self: Stack, x: Tensor, *rest: Any) -> Tensor:
        nonlocal read
        read += x.shape[1]
        return prefill(self, x, *rest)

    monkeypatch.setattr(Stack, "prefill", counted)
    state = model.init_state(1)
    for _ in range(39):
        model.step(state.logits.argmax(-1), state)
    assert read == 40 + 8 * 4  # eight windows after the first, each opened with the four latents before it
    assert state.latents.recent.shape == (1, 4, 16)


def test_an_untied_head_starts_at_zero() -> None:
    model = perceiver_ar(8).build()
    assert isinstance(model, PerceiverAR)
    assert model(torch.randint(256, (1, 9))).abs().max() == 0
    tied = perceiver_ar(8, tied=True).build()
    assert isinstance(tied, PerceiverAR) and tied.head is None and tied(torch.randint(256, (1, 9))).abs().max() > 0


TABLE: dict[str, tuple[int, int, int, int, int]] = {
    "tiny": (64, 2, 2, 1024, 256),
    "small": (96, 2, 3, 2048, 256),
    "arxiv": (1024, 17, 16, 8192, 1024),
    "image64": (1024, 16, 16, 12_288, 1024),
    "image256": (768, 6, 12, 8192, 768),
    "image640": (768, 6, 12, 4096, 1024),
    "audio": (768, 6, 12, 8192, 1024),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_have_the_sizes_of_the_table(name: str) -> None:
    config = presets()[f"perceiver-ar-{name}"]
    assert isinstance(config, PerceiverARConfig)
    mixer = config.reader.mixer
    dim, depth, heads, max_len, latents = TABLE[name]
    assert (config.width, config.stack.depth, config.max_len, config.latents) == (dim, depth, max_len, latents)
    assert mixer.model_dump() == config.stack.mixer.model_dump()
    assert (mixer.model_dump()["heads"], mixer.model_dump()["rotary_fraction"]) == (heads, 0.5)
    assert config.stack.feedforward and config.stack.feedforward.activation == "squared_relu"
    assert config.stack.dropout == mixer.model_dump()["dropout"] == (0.0 if name in ("tiny", "small") else 0.1)
    with torch.device("meta"):
        model = config.build()
    blocks = (depth + 1) * (12 * dim**2 + 13 * dim)
    assert count_parameters(model) == blocks + 2 * dim + 256 * dim + dim + 256 * dim + 256  # final norm, table, start, head


def test_flops_of_a_forward_pass_and_of_a_training_step() -> None:
    """Linear maps: 24 D^2 a block. Forward runs the stack on 2 T - N latents; a step on one window, and reads all keys before its end."""
    dim, depth, length, latents = 64, 2, 1024, 256
    forward, step = count_flops("perceiver-ar-tiny"), count_flops("perceiver-ar-tiny", backward=True)
    assert forward.logits == 2 * 256 * dim
    twice = (2 * length - latents) / length
    assert forward.linear == 24 * dim**2 * (1 + depth * twice)
    assert forward.attention == 4 * dim * (length / 2 + depth * twice * latents / 2)
    assert step.logits == 3 * forward.logits
    end = (latents + length) / 2  # of a window, on average
    assert step.linear == 3 * (20 * dim**2 + 4 * dim**2 * end / latents + 24 * dim**2 * depth)
    assert step.attention == 3 * 4 * dim * (end - latents / 2 + depth * latents / 2)
    full = count_flops("perceiver-ar-tiny", backward=True, causal="full")
    assert full.attention == 3 * 4 * dim * (end + depth * latents) and full.linear == step.linear


def test_flops_of_one_window_are_those_of_a_forward_pass() -> None:
    assert count_flops("perceiver-ar-tiny", 100, backward=True).total == pytest.approx(3 * count_flops("perceiver-ar-tiny", 100).total)


WRONG: dict[str, dict[str, Any]] = {
    "latents must be even, got 7": {"latents": 7},
    "reads its context by attention, got stack.mixer.kind 'hyena': set 'attention'": {"stack": hyena_stack(16)},
    "a PerceiverAR predicts the next id, but its mixer 'attention' sees later ids": {"stack": stack(16, two_sided=True)},
    "PerceiverAR predicts the next id, but its mixer 'attention'": {"stack": stack(16, depth=0, two_sided=True)},
    "a PerceiverAR predicts the next id, but its mixer 'hyena' sees later ids": {
        "stack": with_changes(stack(16), {"overrides": {1: hyena(two_sided=True)}})
    },
    "did you mean 'latents'": {"latent": 8},
    "'cross_heads': expected a value greater than 0": {"cross_heads": 0},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_configs_say_what_is_wrong(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(PerceiverARConfig, {"max_len": 40, "latents": 8, "stack": stack(16), **WRONG[sentence]})


@torch.no_grad()
def test_no_latent_layers_leave_the_reader() -> None:
    """Forward and decoding work without a block over the latents, as all positions then read the whole past themselves."""
    config = perceiver_ar(8)
    model = model_of(with_changes(config, {"stack.depth": 0}))
    ids = torch.randint(256, (2, LENGTH))
    state = model.init_state(2)
    logits = torch.cat((state.logits[:, None], model.prefill(ids, state)), 1)
    torch.testing.assert_close(logits[:, :-1], model(ids), rtol=0, atol=1e-9)


def test_heads_of_the_reader_divide_the_width() -> None:
    with pytest.raises(ValueError, match="dim 16 is not a multiple of 3 heads"):
        perceiver_ar(8, cross_heads=3).build()
