"""The contract of every causal model, in double precision: prefill and step equal forward, rows are independent, no future leaks."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from subquad.models.base import CausalModel
from tests.models.cases import CASES, build

TOLERANCE = 1e-9
ROWS, LENGTH = 3, 37


@pytest.fixture(params=list(CASES))
def model(request: pytest.FixtureRequest, device: torch.device) -> CausalModel:
    return build(CASES[request.param]).to(device)


@pytest.fixture
def ids(device: torch.device) -> Tensor:
    return torch.randint(256, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1)).to(device)


@torch.no_grad()
def test_step_equals_forward_at_every_position(model: CausalModel, ids: Tensor) -> None:
    state = model.init_state(ROWS)
    logits = [state.logits]
    for t in range(LENGTH):
        logits.append(model.step(ids[:, t], state))
        assert torch.equal(state.logits, logits[-1])
    _close(torch.stack(logits[:-1], 1), model(ids))


@pytest.mark.parametrize("seed", range(2))
@torch.no_grad()
def test_prefill_in_any_pieces_equals_forward(model: CausalModel, ids: Tensor, seed: int) -> None:
    chance = random.Random(seed)
    state = model.init_state(ROWS)
    logits, t = [state.logits.unsqueeze(1)], 0
    while t < LENGTH:
        n = min(chance.choice((1, 2, 4, 5, 8, 13, 37)), LENGTH - t)
        logits.append(model.prefill(ids[:, t : t + n], state))
        t += n
    _close(torch.cat(logits, 1)[:, :LENGTH], model(ids))


@pytest.mark.parametrize("seed", range(2))
@torch.no_grad()
def test_rows_advance_by_lengths_of_their_own(model: CausalModel, ids: Tensor, seed: int) -> None:
    chance = random.Random(seed)
    whole, state = model(ids), model.init_state(ROWS)
    at = [0] * ROWS
    while min(at) < LENGTH:
        n = chance.choice((1, 1, 2, 7, 15, LENGTH))
        counts = [min(chance.randint(0, n), LENGTH - start) for start in at]
        piece = torch.randint(256, (ROWS, n), device=ids.device)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            piece[row, :count] = ids[row, start : start + count]
        logits = model.prefill(piece, state, counts)
        for row, (start, count) in enumerate(zip(at, counts, strict=True)):
            inside = max(min(count, LENGTH - start - 1), 0)
            _close(logits[row, :inside], whole[row, start + 1 : start + 1 + inside])
            if count:
                assert torch.equal(state.logits[row], logits[row, count - 1])
        at = [start + count for start, count in zip(at, counts, strict=True)]
        assert state.lengths == at


@torch.no_grad()
def test_hidden_vectors_are_those_that_logits_are_computed_from(model: CausalModel, ids: Tensor) -> None:
    """Vector t has seen the first t ids, up to the whole context: what follows changes nothing, and each id changes the last one."""
    first = int(model.config.reads_empty)
    for length in (1, LENGTH, model.max_len):
        whole = torch.randint(256, (ROWS, length), generator=torch.Generator().manual_seed(2)).to(ids.device)
        hidden = model(whole, output="hidden")
        assert hidden.shape == (ROWS, length + first, model.config.hidden_width)
        _close(model(whole[:, : length // 2], output="hidden"), hidden[:, : length // 2 + first])
        state = model.init_state(ROWS)
        logits = torch.cat((state.logits.unsqueeze(1), model.prefill(whole, state)), 1)[:, 1 - first :]  # after each id
        _close(model._logits(hidden), logits)  # type: ignore[operator]


@torch.no_grad()
def test_a_row_that_rests_stays_where_it_is(model: CausalModel, ids: Tensor) -> None:
    """Rows stand together and one of them takes nothing, at every offset inside a patch."""
    whole = model(ids)
    for start in range(1, 18):
        state = model.init_state(ROWS)
        model.prefill(ids[:, :start], state)
        logits = model.prefill(ids[:, start : start + 1], state, [1, 0, 1])
        _close(logits[::2, 0], whole[::2, start + 1])
        _close(state.logits[1], whole[1, start])
        _close(model.prefill(ids[1:2].expand(ROWS, -1)[:, start : start + 3], state, [0, 3, 0])[1], whole[1, start + 1 : start + 4])


@torch.no_grad()
def test_a_full_context_still_predicts_its_next_id(model: CausalModel, device: torch.device) -> None:
    ids = torch.randint(256, (2, model.config.max_len), device=device)
    one, other = model.init_state(2), model.init_state(2)
    model.prefill(ids, one)
    for t in range(ids.shape[1]):
        model.step(ids[:, t], other)
    _close(one.logits, other.logits)
    with pytest.raises(ValueError, match=f"do not fit a context of {model.config.max_len}"):
        model.step(ids[:, 0], one)


@torch.no_grad()
def test_a_row_in_a_batch_equals_the_row_alone(model: CausalModel, ids: Tensor) -> None:
    whole = model(ids)
    for row in range(ROWS):
        _close(model(ids[row : row + 1])[0], whole[row])


@torch.no_grad()
def test_training_learns_every_position_once_or_more(model: CausalModel, ids: Tensor) -> None:
    """A span's logits are forward's wherever the span counts, and the spans cover the window."""
    whole, learned = model(ids), torch.zeros(LENGTH, dtype=torch.bool)
    for first, end in model.training_spans(LENGTH):
        logits = model(ids, (first, end))
        assert logits.shape == (ROWS, end - first, 256)
        agrees = torch.tensor([torch.allclose(logits[:, t], whole[:, first + t], rtol=0, atol=TOLERANCE) for t in range(end - first)])
        learned[first:end] |= agrees
    assert learned.all()
    for span in ((0, LENGTH + 1), (5, 5), (-1, 3)):
        with pytest.raises(ValueError, match=f"a span must be within {LENGTH} ids"):
            model(ids, span)


@torch.no_grad()
def test_what_follows_changes_nothing(model: CausalModel, ids: Tensor) -> None:
    whole = model(ids)
    for length in (0, 1, 2, 3, 4, 5, 6, 9, 36):
        _close(model(ids[:, :length]), whole[:, :length])


def test_gradients_reach_the_past_alone(model: CausalModel, device: torch.device) -> None:
    """The gradient of logits[t] with respect to the embedding of byte s is zero for s >= t, on every path a byte can take."""
    length = 13
    ids = torch.arange(length, device=device).unsqueeze(0)  # every position a byte of its own, so rows of the tables stand for positions
    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding) and module.num_embeddings == 256]
    logits = model(ids)
    reached = torch.zeros(length, length, dtype=torch.bool)
    for t in range(length):
        probe = (logits[0, t, 200:] * torch.arange(200, 256, device=device).sin()).sum()  # outputs tied to rows that no input uses
        for gradient in torch.autograd.grad(probe, tables, retain_graph=True, allow_unused=True, materialize_grads=True):
            reached[t] |= (gradient[:length].abs().sum(1) > 0).cpu()
    assert not reached.triu().any()
    blind = getattr(model.config, "ablation", None) is not None or model.config.kind != "megabyte"
    assert blind or reached.tril(-1).sum() == length * (length - 1) // 2


@torch.no_grad()
def test_a_clone_goes_its_own_way(model: CausalModel, ids: Tensor) -> None:
    state = model.init_state(ROWS)
    model.prefill(ids[:, :9], state)
    before = state.clone()
    assert before.nbytes == state.nbytes > 0
    expected = model.step(ids[:, 9], state)
    model.prefill(ids[:, 10:20], state)
    assert torch.equal(model.step(ids[:, 9], before), expected)


@torch.no_grad()
def test_unused_columns_need_no_room(model: CausalModel, ids: Tensor) -> None:
    state = model.init_state(ROWS, max_len=8)
    logits = model.prefill(ids[:, :12], state, [5, 8, 0])
    assert logits.shape == (ROWS, 12, 256) and state.lengths == [5, 8, 0]
    _close(logits[1, :7], model(ids)[1, 1:8])
    for lengths in ([1, 1], [13, 0, 0], [-1, 0, 0]):
        with pytest.raises(ValueError, match="lengths must be 3 numbers from 0 to 12"):
            model.prefill(ids[:, :12], state, lengths)


@torch.no_grad()
def test_no_ids_and_too_many(model: CausalModel, ids: Tensor) -> None:
    assert model(ids[:2, :0]).shape == (2, 0, 256)
    state = model.init_state(2)
    assert model.prefill(ids[:2, :0], state).shape == (2, 0, 256)
    with pytest.raises(ValueError, match="exceed the context"):
        model(ids[:1, :1].expand(1, model.config.max_len + 1))
    with pytest.raises(ValueError, match="exceed the context"):
        model.init_state(1, model.config.max_len + 1)


def test_meta_device_and_config_round_trip(model: CausalModel) -> None:
    values = model.config.model_dump(mode="json")
    assert type(model.config).model_validate(values) == model.config
    with torch.device("meta"):
        there = model.config.build()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in there.state_dict().items()} == shapes


def _close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
