"""Masked positions: their shares, that they are a function of the sample's number alone, special tokens, and the config's old keys."""

from __future__ import annotations

import numpy as np
import pytest

from subquad.config import parse
from subquad.data.masking import MaskConfig, add_special_tokens, mask_ids


def test_shares_of_masked_ids() -> None:
    """30 % are masked; of them 80 % are the mask token, 10 % a random id (and 1 in 200 of these the same), 10 % stay, as do all others."""
    ids = np.random.default_rng(0).integers(0, 200, (200, 500)).astype(np.uint8)
    maskable = np.arange(500)[None] < np.full((200, 1), 450)
    masked = mask_ids(ids, maskable, np.arange(200), 0.3, MaskConfig(), 200, 0)
    assert masked.targets[~maskable].sum() == 0 and masked.targets[maskable].mean() == pytest.approx(0.3, abs=0.01)
    assert masked.masked[masked.targets].mean() == pytest.approx(0.8, abs=0.01) and not masked.masked[~masked.targets].any()
    assert np.array_equal(masked.input_ids[~masked.targets], ids[~masked.targets]) and masked.input_ids.max() < 200
    seen = masked.targets & ~masked.masked
    assert (masked.input_ids[seen] != ids[seen]).mean() == pytest.approx(0.5, abs=0.03)
    again = mask_ids(ids[7:9], maskable[7:9], np.arange(7, 9), 0.3, MaskConfig(), 200, 0)
    assert all(np.array_equal(getattr(again, name), getattr(masked.rows(7, 9), name)) for name in ("input_ids", "masked", "targets"))
    other = mask_ids(ids, maskable, np.arange(200) + 200, 0.3, MaskConfig(), 200, 0)
    assert (other.targets & masked.targets)[maskable].mean() == pytest.approx(0.09, abs=0.01)


def test_every_row_has_a_target_and_special_tokens_are_none() -> None:
    ids, lengths = np.ones((50, 6), np.uint8), np.arange(50) % 3 + 1
    rows, sizes, maskable = add_special_tokens(ids, lengths, ([7], [8, 9]))
    masked = mask_ids(rows, maskable, np.arange(50), 0.01, MaskConfig(), 10, 0)
    assert (masked.targets.sum(1) >= 1).all() and not masked.targets[~maskable].any()
    assert rows[0].tolist()[:4] == [7, 1, 8, 9] and sizes.tolist() == (lengths + 3).tolist()
    assert rows[1].tolist()[:5] == [7, 1, 1, 8, 9] and (maskable.sum(1) == lengths).all()


def test_keys_of_earlier_versions_load() -> None:
    config = parse(MaskConfig, {"train": 0.2, "valid": 0.1, "blank": 0.7, "other": 0.2})
    expected = MaskConfig(mlm_probability=0.2, eval_mlm_probability=0.1, mask_replace_prob=0.7, random_replace_prob=0.2)
    assert config == expected
