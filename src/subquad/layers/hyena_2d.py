"""Two-dimensional Hyena for images: every pixel sees every other through filters as large as the image (arXiv 2302.10866, appendix A.4).

The recurrence is that of ``layers/hyena.py`` with two-sided convolutions over rows and columns, without gates z = h_n conv z + skip_n z:

    x_0 .. x_{N-1}, v = short_conv(x W),   z = v,   then for n = 1 .. N:   z = x_{N-n} * (h_n conv z + skip_n z),   y = z W_out

    h[c, dy, dx] = (exp(-rate[c] (|dy| + |dx|)) + shift) * FFN(features(dy), features(dx))[c],   dy and dx from -1 to 1 across the image

The paper says neither whether its filter is a network of both coordinates or a product of two, nor how the short convolution goes; here
it is one network, and a depthwise convolution centred on the pixel. ``gated=False`` is the paper's image model, which has no gates.
B batch, H rows, W columns, T = H W positions in raster order, D channels. Cost in T: T log T channel by channel, and the projections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.layers.base import Mixer, MixerConfig, check_mask, check_width
from subquad.layers.gated_conv import Skip
from subquad.layers.long_filter import ImplicitFilter, ImplicitFilterConfig
from subquad.ops.long_conv_2d import long_conv_2d
from subquad.state import State


class Hyena2dConfig(MixerConfig):
    """``shape`` is (H, W); ``short_kernel``, an odd number, is the side of the short convolution; the rest as in ``HyenaConfig``."""

    kind: Literal["hyena_2d"] = "hyena_2d"
    shape: tuple[int, int]
    order: int = Field(2, ge=1)
    short_first: bool = True
    short_kernel: int = Field(3, gt=0)
    gated: bool = True
    filter: ImplicitFilterConfig = ImplicitFilterConfig(features=9)

    @property
    def causal(self) -> bool:
        return False

    @property
    def filters(self) -> int:
        """Long filters of each channel."""
        return self.order - self.short_first

    @model_validator(mode="after")
    def _fits(self) -> Hyena2dConfig:
        if not self.filters:
            raise ValueError("with order 1 the short convolution is the only filter: use order 2, or short_first=false")
        if min(self.shape) < 1 or self.short_kernel % 2 == 0:
            raise ValueError(f"shape must be two positive sides and short_kernel odd, got {list(self.shape)} and {self.short_kernel}")
        if self.filter.learned_features or self.filter.filter_len is not None:
            raise ValueError("filters over rows and columns are functions of both: leave out filter.learned_features and filter.filter_len")
        return self

    def build(self, dim: int, max_len: int) -> Hyena2d:
        if math.prod(self.shape) > max_len:
            raise ValueError(
                f"an image of {self.shape[0]} x {self.shape[1]} has more than the {max_len} positions of the model: raise max_len"
            )
        return Hyena2d(self, dim)


class Hyena2d(Mixer):
    """See the module's docstring."""

    def __init__(self, config: Hyena2dConfig, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        parts = config.order + 1 if config.gated else 1
        self.project = nn.Linear(dim, parts * dim)
        self.short = nn.Conv2d(parts * dim, parts * dim, config.short_kernel, padding=config.short_kernel // 2, groups=parts * dim)
        self.filter = ImageFilter(config.filter, config.filters * dim, config.shape)
        self.skip = Skip(config.filters, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        rows, columns = self.config.shape
        if x.shape[1] != rows * columns:
            raise ValueError(f"expected {rows} x {columns} = {rows * columns} positions, got {x.shape[1]}: set shape")
        check_width(x, self.dim)
        check_mask(x, mask)
        padding = None if mask is None else ~mask.unflatten(1, (1, rows, columns))  # (B, 1, H, W)
        p = self.project(x).mT.unflatten(-1, (rows, columns))  # (B, (N + 1) D, H, W), without gates (B, D, H, W)
        p = self.short(p if padding is None else p.masked_fill(padding, 0))
        p = p if padding is None else p.masked_fill(padding, 0)
        *gates, z = p.unflatten(1, (-1, self.dim)).unbind(1)  # x_0 .. x_{N-1}, v, each (B, D, H, W)
        if gates and self.config.short_first:  # h_1 is the short convolution's
            z = z * gates.pop()
        taps = self.filter().unflatten(0, (self.config.filters, self.dim))  # (N, D, 2 H - 1, 2 W - 1)
        for skip, h in zip(self.skip.weight, taps, strict=True):
            z = long_conv_2d(z, h, skip, center=(rows - 1, columns - 1))  # h_n conv z + skip_n z
            z = z * gates.pop() if gates else z
        y = self.out(z.flatten(2).mT)  # (B, T, D)
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)

    def init_state(self, batch: int, max_len: int) -> State:
        raise ValueError("a two-dimensional Hyena sees the whole image, so it cannot decode: use a causal mixer to generate")

    def prefill(self, x: Tensor, state: State, lengths: Sequence[int] | None = None) -> Tensor:
        raise ValueError("a two-dimensional Hyena sees the whole image, so it cannot decode: use a causal mixer to generate")


class ImageFilter(ImplicitFilter):
    """Filters of every offset between two pixels: ``forward()`` gives (C, 2 H - 1, 2 W - 1), offset (0, 0) in the middle."""

    def __init__(self, config: ImplicitFilterConfig, channels: int, shape: tuple[int, int]) -> None:
        super().__init__(config, channels, max(shape), axes=2)
        self.shape = shape

    def forward(self, length: int = 0) -> Tensor:
        dtype = self._dtype()
        steps = [torch.arange(1 - side, side, device=self.last.weight.device).to(dtype) / max(side - 1, 1) for side in self.shape]
        axes = [self._waves(step, step * math.pi) for step in steps]  # (2 H - 1, F), (2 W - 1, F)
        high, wide = (len(step) for step in steps)
        features = torch.cat((axes[0].unsqueeze(1).expand(-1, wide, -1), axes[1].expand(high, -1, -1)), -1)  # (2 H - 1, 2 W - 1, 2 F)
        distances = steps[0].abs().unsqueeze(1) + steps[1].abs()  # (2 H - 1, 2 W - 1)
        return self._taps(features.flatten(0, 1), distances.flatten()).unflatten(-1, (high, wide))
