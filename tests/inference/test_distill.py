"""The recurrent form of Hyena: a model of its own that is exact in itself, near the trained one, and of one size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import subquad
from subquad.inference.distill import distill
from subquad.layers.distilled_hyena import DistilledHyena
from subquad.layers.hyena import HyenaConfig
from subquad.models.base import CausalModel
from subquad.models.language_model import LanguageModel


@pytest.fixture(scope="module")
def model() -> CausalModel:
    torch.manual_seed(0)
    built = subquad.build("hyena-tiny", {"max_len": 96, "stack.mixer.order": 3}).double().eval()
    assert isinstance(built, LanguageModel)
    return built


@torch.no_grad()
def test_steps_equal_forward_and_rows_go_their_own_way(model: CausalModel) -> None:
    distilled, _ = distill(model, 6)
    assert isinstance(distilled, CausalModel)
    ids = torch.randint(256, (2, 60))
    whole = distilled(ids)
    state = distilled.init_state(2)
    distilled.prefill(ids[:, :40], state, [40, 17])
    for t in range(17, 59):
        counts = [int(t >= 40), 1]
        logits = distilled.prefill(torch.stack((ids[0, max(t, 40)], ids[1, t])).unsqueeze(1), state, counts)[:, 0]
        torch.testing.assert_close(logits[1], whole[1, t + 1], rtol=0, atol=1e-9)
        if counts[0]:
            torch.testing.assert_close(logits[0], whole[0, t + 1], rtol=0, atol=1e-9)
    one = distilled.init_state(1)
    for t in range(59):
        torch.testing.assert_close(distilled.step(ids[:1, t], one), whole[:1, t + 1], rtol=0, atol=1e-9)


@torch.no_grad()
def test_it_nears_the_trained_model_and_says_how_near(model: CausalModel) -> None:
    ids = torch.randint(256, (1, 96))
    gaps, errors = [], []
    for modes in (2, 24):
        distilled, found = distill(model, modes)
        assert found.keys() == {"stack.blocks.0.mixer", "stack.blocks.1.mixer"}
        error = torch.stack(list(found.values()))
        assert error.shape == (2, 2, 64)
        gaps.append(float((distilled(ids) - model(ids)).abs().max()))
        errors.append(float(error.mean()))
    assert errors[1] < errors[0] / 20 and gaps[1] < gaps[0] / 5


@torch.no_grad()
def test_its_state_has_one_size_and_the_model_stays_as_it_was(model: CausalModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    distilled, _ = distill(model, 4)
    assert isinstance(distilled, CausalModel)
    assert distilled.init_state(1, 8).nbytes == distilled.init_state(1, 96).nbytes < model.init_state(1, 96).nbytes
    assert not any(isinstance(module, DistilledHyena) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(subquad.generate(distilled.float(), b"To be", max_bytes=200)) == 200  # past the context too


def test_what_cannot_be_distilled(model: CausalModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the model has no Hyena layer to distil"):
        distill(subquad.build("transformer-tiny"), 8)
    with pytest.raises(ValueError, match="at least one mode, got 0"):
        distill(model, 0)
    with pytest.raises(ValueError, match="at least one mode, got 2.5"):
        distill(model, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be saved or loaded: save the one"):
        subquad.save(distill(model, 2)[0], tmp_path / "run")
    with pytest.raises(ValueError, match="distil a causal one"):
        DistilledHyena(HyenaConfig(two_sided=True).build(4, 8), 4)
