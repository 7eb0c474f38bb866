"""The small experiment as fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subquad.comparison.experiment import Experiment
from subquad.config import parse
from tests.comparison.small import two_models, write_text


@pytest.fixture(scope="session", autouse=True)
def _machine_not_measured() -> Any:
    """Measuring the machine takes a second, and every comparison does it once; ``tests/cli/test_compare.py`` does it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subquad.comparison.runner.machine", lambda device: "not measured")
        yield


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path)


@pytest.fixture
def values(text: Path) -> dict[str, Any]:
    return two_models(text)


@pytest.fixture
def experiment(values: dict[str, Any]) -> Experiment:
    return parse(Experiment, values)
