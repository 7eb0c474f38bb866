"""Images: the patch scan is a bijection whose patches are squares; raw records and .npy arrays give the same documents."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.config import parse
from subquad.data.corpus import Corpus
from subquad.data.images import ImageShape, patch_scan

SHAPE = ImageShape(height=4, width=6, channels=3, side=2)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 5))
def test_patch_scan_is_a_bijection_of_squares(rows: int, columns: int, channels: int, side: int) -> None:
    height, width = rows * side, columns * side
    order = patch_scan(height, width, channels, side)
    assert sorted(order.tolist()) == list(range(height * width * channels))
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels))
    scanned = image.reshape(-1)[order].reshape(rows * columns, side, side, channels)
    for patch in range(rows * columns):
        top, left = patch // columns * side, patch % columns * side
        assert (scanned[patch] == image[top : top + side, left : left + side]).all()
    back = np.empty(image.size, dtype=image.dtype)
    back[order] = scanned.reshape(-1)
    assert (back.reshape(image.shape) == image).all()


@pytest.mark.parametrize("side", [1, 6])
def test_patches_as_small_or_wide_as_can_be(side: int) -> None:
    assert patch_scan(6, 6, 3, side).tolist() == list(range(108))


def files(folder: Path) -> list[Path]:
    np.save(folder / "a.npy", IMAGES)
    (folder / "b.raw").write_bytes(IMAGES.tobytes())
    packed = io.BytesIO()
    np.lib.format.write_array(packed, IMAGES, version=(2, 0))
    (folder / "c.npy.gz").write_bytes(gzip.compress(packed.getvalue()))
    return sorted(folder.iterdir())


def test_every_container_gives_each_image_in_scan_order(tmp_path: Path) -> None:
    for path in files(tmp_path):
        corpus = Corpus.open([path], SHAPE)
        assert [document.name for document in corpus.documents] == [f"{path.name}/{index:02d}" for index in range(12)]
        for document, image in zip(corpus.documents, IMAGES, strict=True):
            assert (document.read() == image.reshape(-1)[patch_scan(4, 6, 3, 2)]).all()
            assert (document.read(12, 24) == image[:2, 2:4].reshape(-1)).all()


def test_a_raster_scan_is_the_bytes_as_they_are(tmp_path: Path) -> None:
    path = files(tmp_path)[0]
    corpus = Corpus.open([path], ImageShape(height=4, width=6, scan="raster"))
    assert b"".join(document.read().tobytes() for document in corpus.documents) == IMAGES.tobytes()
    assert corpus.fingerprint != Corpus.open([path], SHAPE).fingerprint


def test_images_are_split_whole(tmp_path: Path) -> None:
    corpus = Corpus.open([files(tmp_path)[0]], SHAPE)
    split = corpus.split((0.5, 0.25, 0.25))
    assert (split.by, len(split.train), len(split.valid), len(split.test)) == ("document", 6, 3, 3)
    assert corpus.record(split)["image"] == {"height": 4, "width": 6, "channels": 3, "scan": "patch", "side": 2}


def test_wrong_sizes_are_named(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"raw images of 4 x 6 x 3 = 72 bytes each in raw, got 100 bytes"):
        Corpus.open([tmp_path / "raw"], SHAPE)
    (tmp_path / "raw.npy").write_bytes(b"\x93NUMPY\x01\x00\x05\x00nonsense")
    with pytest.raises(ValueError, match=r"raw.npy is not a readable .npy"):
        Corpus.open([tmp_path / "raw.npy"], SHAPE)
    for wrong in (IMAGES[:, :2], IMAGES.astype(np.float32), np.asfortranarray(IMAGES), IMAGES[0]):
        np.save(tmp_path / "x.npy", wrong)
        with pytest.raises(ValueError, match=r"expected a whole uint8 array of shape \(N, 4, 6, 3\) in C order in x.npy, got"):
            Corpus.open([tmp_path / "x.npy"], SHAPE)
    np.save(tmp_path / "x.npy", IMAGES)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="expected a whole uint8 array"):
        Corpus.open([tmp_path / "x.npy"], SHAPE)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="expected a side that divides an image of 5 x 6 pixels, got 4"):
        parse(ImageShape, {"height": 5, "width": 6})
    with pytest.raises(ValueError, match="unknown key 'sdie': did you mean 'side'"):
        parse(ImageShape, {"height": 5, "width": 6, "sdie": 1})
    with pytest.raises(ValueError, match="expected a side that divides height and width"):
        patch_scan(5, 6, 3, 4)
