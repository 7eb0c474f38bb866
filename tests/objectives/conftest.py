"""The small model, corpus and configs of the tests of training."""

from tests.training.conftest import corpus, make_config, make_trainer

__all__ = ["corpus", "make_config", "make_trainer"]
