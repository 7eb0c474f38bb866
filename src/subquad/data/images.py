"""Images as byte strings: records of height * width * channels bytes, scanned in raster order or patch by patch.

In a raster scan the bytes run row by row with the channels of a pixel together. In a patch scan the image is cut into patches of
side x side pixels, in raster order inside and between patches, so that a model's patch of channels * side**2 bytes is a square of the
image (MEGABYTE, appendix D.1).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import PositiveInt, model_validator

from subquad.config import Config
from subquad.data.documents import Document
from subquad.data.shuffle import Integers

_HEADER = 1 << 17  # more than the longest header of .npy version 1


class ImageShape(Config):
    """How raw bytes are images: sizes in pixels, bytes a pixel, and the scan; ``side`` is the patch's and matters to its scan only."""

    height: PositiveInt
    width: PositiveInt
    channels: PositiveInt = 3
    scan: Literal["raster", "patch"] = "patch"
    side: PositiveInt = 4

    @model_validator(mode="after")
    def _divides(self) -> ImageShape:
        if self.scan == "patch" and (self.height % self.side or self.width % self.side):
            size = f"{self.height} x {self.width}"
            raise ValueError(f"expected a side that divides an image of {size} pixels, got {self.side}: change it or use scan 'raster'")
        return self

    @property
    def size(self) -> int:
        """Bytes of one image."""
        return self.height * self.width * self.channels

    def order(self) -> Integers | None:
        """The permutation of ``patch_scan``, or None for a raster scan."""
        return patch_scan(self.height, self.width, self.channels, self.side) if self.scan == "patch" else None


def patch_scan(height: int, width: int, channels: int, side: int) -> Integers:
    """The raster positions of an image's bytes in the order of a patch scan, (height * width * channels,).

    ``scanned = raster[order]`` and back ``raster[order] = scanned``. ``ValueError`` if the side does not divide height and width.
    """
    if min(height, width, channels, side) < 1 or height % side or width % side:
        raise ValueError(f"expected a side that divides height and width, got side {side} for {height} x {width} x {channels}")
    raster = np.arange(height * width * channels, dtype=np.int64)
    patches = raster.reshape(height // side, side, width // side, side, channels)
    return patches.transpose(0, 2, 1, 3, 4).reshape(-1)


def image_documents(documents: Sequence[Document], shape: ImageShape) -> list[Document]:
    """Each image in raw files or .npy arrays as a document whose bytes come in scan order."""
    order = shape.order()
    return [image for document in documents for image in _images(document, shape, order)]


def _images(document: Document, shape: ImageShape, order: Integers | None) -> Iterator[Document]:
    start = _array_start(document, shape)
    number, rest = divmod(document.size - start, shape.size)
    if rest:
        size = f"{shape.height} x {shape.width} x {shape.channels} = {shape.size}"
        raise ValueError(
            f"expected raw images of {size} bytes each in {document.name}, got {document.size - start} bytes: "
            "correct the shape, or convert the images to a uint8 .npy"
        )
    digits = len(str(number - 1))
    for index in range(number):
        name = document.name if number == 1 else f"{document.name}/{index:0{digits}d}"
        yield Document(name, shape.size, document.source, document.offset + start + index * shape.size, order)


def _array_start(document: Document, shape: ImageShape) -> int:
    """Where the pixels begin: 0 in a raw file; behind the header of a .npy, whose type and shape must fit."""
    head = io.BytesIO(document.read(0, min(document.size, _HEADER)).tobytes())
    if not head.getvalue().startswith(b"\x93NUMPY"):
        return 0
    try:
        version = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        array_shape, fortran, dtype = read(head)
    except ValueError as error:
        raise ValueError(f"{document.name} is not a readable .npy ({error}): save it again with numpy.save") from None
    image_shape = (shape.height, shape.width, shape.channels)
    if dtype != np.uint8 or fortran or array_shape[1:] != image_shape or document.size - head.tell() != int(np.prod(array_shape)):
        order = "Fortran order, " if fortran else ""
        raise ValueError(
            f"expected a whole uint8 array of shape (N, {', '.join(map(str, image_shape))}) in C order in {document.name}, "
            f"got {dtype}, {order}{array_shape}, {document.size} bytes: reshape it or correct the shape"
        )
    return head.tell()
