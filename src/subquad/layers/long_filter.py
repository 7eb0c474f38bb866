"""Filters as long as the sequence: implicit ones, a small network of position (Hyena, arXiv 2302.10866, section 3.3), and explicit taps.

    h[c, t] = window[c](t) * FFN(features(t))[c],   window[c](t) = exp(-rate[c] t) + shift,   t from 0 at lag 0 to 1 at lag length - 1
    features(t) = [t, cos(f_k w), -sin(f_k w) for k < K],   w = 2 pi lag / length,   f from 1e-4 to K - 1
    FFN = Linear, sin, (Linear, sin) ..., Linear without bias;   sin(x) is sin(frequency * x), one learned frequency a unit for all layers

C channels, L lags. Parameters do not grow with L. Cost in L: that of the network at each lag, once a pass whatever the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.config import Config, OneOf
from subquad.layers.base import OptimizerHint
from subquad.ops.autocast import full_precision

TARGET = 1e-2  # what a window has fallen to after the part of the length that ``fast`` and ``slow`` say


class FilterConfig(Config, ABC):
    """Base of the filters' configs."""

    kind: str

    @abstractmethod
    def build(self, channels: int, max_len: int) -> LongFilter:
        """Filters of that many channels for lags up to ``max_len``. Raises ``ValueError`` for sizes that do not fit."""

    def build_two_sided(self, channels: int, max_len: int) -> LongFilter:
        """One of 2 C channels: the C filters, then the reverse ones beside them, made by a separate network where there is one."""
        return self.build(2 * channels, max_len)


class WindowConfig(Config):
    """A decay with a different rate for each channel: the slowest has fallen to a hundredth after ``slow`` times the length, the fastest
    after ``fast`` times; ``shift`` is added, so that no lag is closed for good."""

    fast: float = Field(0.3, gt=0)
    slow: float = Field(1.5, gt=0)
    shift: float = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> WindowConfig:
        if self.fast > self.slow:
            raise ValueError(f"fast must be at most slow, got fast={self.fast} and slow={self.slow}: swap them")
        return self


class ImplicitFilterConfig(FilterConfig):
    """``features`` of position, an odd number 2 K + 1; the network has ``depth`` linear maps and ``width`` units between them.

    ``frequency`` is where that of the sines starts: too low, and the filters start smooth and learn slowly; ``frequency_scale`` multiplies
    it for good. ``learned_features`` makes the features a table of one row a lag, which training changes. ``window=None`` leaves the decay
    out (CKConv). ``normalized`` divides by the sum of magnitudes over the channels. ``init_std`` draws the network's weights from
    N(0, std) instead of PyTorch's usual ranges.

    ``filter_len`` is the length that t = 1 stands for; by default the longest lag of the model. A trained model that is given a larger
    ``max_len`` keeps its filters tap by tap, and continues them, when ``filter_len`` holds its old length; without, they are stretched.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"base_len": "filter_len"}

    kind: Literal["implicit"] = "implicit"
    features: int = 33
    width: int = Field(64, gt=0)
    depth: int = Field(4, ge=2)
    frequency: float = Field(10.0, gt=0)
    frequency_scale: float = Field(1.0, gt=0)
    learned_features: bool = False
    window: WindowConfig | None = WindowConfig()
    normalized: bool = False
    init_std: float | None = Field(None, gt=0)
    filter_len: int | None = Field(None, gt=1)

    @model_validator(mode="after")
    def _fits(self) -> ImplicitFilterConfig:
        if self.features < 3 or self.features % 2 == 0:
            raise ValueError(
                f"features are time and pairs of a cosine and a sine, so their number must be odd and at least 3, got {self.features}"
            )
        return self

    def build(self, channels: int, max_len: int) -> ImplicitFilter:
        return ImplicitFilter(self, channels, max_len)

    def build_two_sided(self, channels: int, max_len: int) -> TwoSidedFilter:
        return TwoSidedFilter(self, channels, max_len)


class ExplicitFilterConfig(FilterConfig):
    """``taps`` learned numbers a channel (the paper's Conv1d); lags beyond are not seen."""

    kind: Literal["explicit"] = "explicit"
    taps: int = Field(64, gt=0)

    def build(self, channels: int, max_len: int) -> ExplicitFilter:
        return ExplicitFilter(self, channels, max_len)


FILTERS: dict[str, type[FilterConfig]] = {"implicit": ImplicitFilterConfig, "explicit": ExplicitFilterConfig}

AnyFilterConfig = Annotated[FilterConfig, OneOf(FILTERS, "filter", "implicit")]


class LongFilter(nn.Module, ABC):
    """Base of the filters: ``forward(length)`` gives (C, K) in float32 or better, K up to ``length`` and ``max_len`` taps."""

    OPTIMIZER_HINTS: ClassVar[Mapping[str, OptimizerHint]] = {"*": OptimizerHint(decay=False)}  # as Hyena's paper trains them
    max_len: int

    @abstractmethod
    def forward(self, length: int) -> Tensor:
        """The taps at lags 0 to length - 1, or as many as there are. Raises ``ValueError`` in half precision."""

    @abstractmethod
    def init_weights(self, std: float) -> None:
        """Draws new weights. Filters have their own initialisation and may ignore the model's ``std``."""


class ImplicitFilter(LongFilter):
    """See the module's docstring. Its network reads the features of ``axes`` coordinates."""

    rates: Tensor | None

    def __init__(self, config: ImplicitFilterConfig, channels: int, max_len: int, axes: int = 1) -> None:
        super().__init__()
        self.config, self.max_len = config, max_len
        self.hidden, self.last = _linear_maps(config, axes * config.features, channels)
        self.frequency = nn.Parameter(torch.empty(config.width))
        self.table = nn.Parameter(torch.empty(max_len, config.features)) if config.learned_features else None
        self.register_buffer("rates", None if config.window is None else torch.empty(channels))
        self.init_weights(0.0)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        if self.frequency.is_meta:
            return  # nothing to initialise, and PyTorch would take long
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            if self.config.init_std is None:
                linear.reset_parameters()
            else:
                nn.init.normal_(linear.weight, std=self.config.init_std)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
        nn.init.constant_(self.frequency, self.config.frequency)
        if self.table is not None:
            self.table.copy_(self.features(torch.arange(self.max_len, device=self.table.device), self.table.dtype))
        if (window := self.config.window) is not None and self.rates is not None:
            slowest, fastest = (-math.log(TARGET) / part for part in (window.slow, window.fast))
            self.rates.copy_(torch.linspace(slowest, fastest, len(self.rates)))

    def forward(self, length: int) -> Tensor:
        dtype = self._dtype()
        lags = torch.arange(min(length, self.max_len), device=self.last.weight.device)
        features = self.features(lags, dtype) if self.table is None else self.table[: len(lags)]
        return self._taps(features, self._time(lags, dtype))

    def features(self, lags: Tensor, dtype: torch.dtype) -> Tensor:
        """The features of lags (L,) -> (L, 2 K + 1)."""
        return self._waves(self._time(lags, dtype), lags.to(dtype) * (2 * math.pi / self._unit))

    def _waves(self, time: Tensor, phase: Tensor) -> Tensor:
        """A coordinate, and cosines and sines of K multiples of its phase, (L,) -> (L, 2 K + 1)."""
        bands = (self.config.features - 1) // 2
        frequencies = torch.linspace(1e-4, bands - 1, bands, dtype=phase.dtype, device=phase.device)
        angle = torch.outer(phase, frequencies)  # (L, K)
        return torch.cat((time.unsqueeze(1), angle.cos(), -angle.sin()), 1)

    @property
    def _unit(self) -> int:
        return self.config.filter_len or self.max_len

    def _time(self, lags: Tensor, dtype: torch.dtype) -> Tensor:
        return lags.to(dtype) / max(self._unit - 1, 1)

    def _dtype(self) -> torch.dtype:
        dtype = self.last.weight.dtype
        if dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"a filter in {dtype} loses its digits: keep the model in float32 and use autocast (dtype=bfloat16)")
        return dtype

    def _taps(self, features: Tensor, time: Tensor) -> Tensor:
        """Taps (C, L) of features (L, F), and of times (L,) for the window."""
        with full_precision(features.device):
            taps = self._network(features.mT)  # (C, L)
            if self.config.window is not None:
                taps = taps.mul_(self._window(time))  # in its place: no derivative needs the product before
            return taps / taps.abs().sum(0, keepdim=True) if self.config.normalized else taps

    def _network(self, x: Tensor) -> Tensor:
        """(features, L) -> (C, L): lags last, as the convolution wants them."""
        return self._run(self.hidden, self.last, x)

    def _run(self, hidden: Sequence[nn.Linear], last: nn.Linear, x: Tensor) -> Tensor:
        scale = self.config.frequency_scale
        frequency = (self.frequency if scale == 1 else self.frequency * scale).unsqueeze(1)
        for linear in hidden:
            x = torch.sin(frequency * torch.addmm(linear.bias.unsqueeze(1), linear.weight, x))
        return last.weight @ x

    def _window(self, time: Tensor) -> Tensor:
        assert self.config.window is not None and self.rates is not None
        decay = torch.outer(-self.rates.to(time.dtype).abs(), time).exp_()
        return decay.add_(self.config.window.shift) if self.config.window.shift else decay


class TwoSidedFilter(ImplicitFilter):
    """C filters and C reverse ones, (2 C, K): two networks with the same features, frequency of sines and window (Monarch Mixer)."""

    def __init__(self, config: ImplicitFilterConfig, channels: int, max_len: int) -> None:
        if config.normalized:
            raise ValueError("a filter with a separate reverse network cannot be normalized: leave filter.normalized out")
        super().__init__(config, channels, max_len)
        self.reverse_hidden, self.reverse_last = _linear_maps(config, config.features, channels)
        self.init_weights(0.0)

    def _network(self, x: Tensor) -> Tensor:
        return torch.cat((super()._network(x), self._run(self.reverse_hidden, self.reverse_last, x)))

    def _window(self, time: Tensor) -> Tensor:
        return super()._window(time).repeat(2, 1)


class ExplicitFilter(LongFilter):
    """One learned number a tap, drawn as PyTorch draws those of a convolution."""

    def __init__(self, config: ExplicitFilterConfig, channels: int, max_len: int) -> None:
        super().__init__()
        self.max_len = max_len
        self.taps = nn.Parameter(torch.empty(channels, config.taps))
        self.init_weights(0.0)

    def init_weights(self, std: float) -> None:
        bound = self.taps.shape[1] ** -0.5
        nn.init.uniform_(self.taps, -bound, bound)

    def forward(self, length: int) -> Tensor:
        if self.taps.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"a filter in {self.taps.dtype} loses its digits: keep the model in float32 and use autocast (dtype=bfloat16)")
        return self.taps[:, : min(length, self.max_len)]


def _linear_maps(config: ImplicitFilterConfig, inputs: int, channels: int) -> tuple[list[nn.Linear], nn.Linear]:
    """Those of a filter's network: the hidden ones and the last."""
    sizes = [inputs, *[config.width] * (config.depth - 1)]
    hidden = nn.ModuleList(nn.Linear(before, after) for before, after in zip(sizes, sizes[1:], strict=False))
    return cast("list[nn.Linear]", hidden), nn.Linear(config.width, channels, bias=False)
