"""Where tests run: ``pytest --device cuda`` puts the contract of the models on a GPU."""

from __future__ import annotations

import signal

import pytest
import torch

from tests.interop import golden

# A program that a shell starts in the background ignores SIGINT, and so would all tests of interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the tests of the models' contract run (default: cpu)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(golden.summary())


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that ``--device`` names; a test that takes it is skipped where there is none of that kind."""
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that PyTorch can use")
    return device
