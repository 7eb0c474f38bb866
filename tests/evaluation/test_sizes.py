"""The counted sizes of the presets are those of today's presets."""

from __future__ import annotations

import pytest

from subquad.config import with_changes
from subquad.evaluation import sizes
from subquad.models import presets


@pytest.mark.slow
def test_the_file_has_what_counting_gives() -> None:
    counted = sizes._counted()
    assert {sizes._digest(config): sizes.count(config) for config in presets().values()} == counted, "python -m subquad.evaluation.sizes"


def test_a_config_that_is_not_a_preset_is_counted() -> None:
    config = with_changes(presets()["transformer-tiny"], {"max_len": 512})
    assert sizes._digest(config) not in sizes._counted()
    assert sizes.size_of(config)["parameters"] == sizes.size_of(presets()["transformer-tiny"])["parameters"]
