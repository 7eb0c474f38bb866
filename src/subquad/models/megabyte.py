"""MEGABYTE (arXiv 2305.07185): a large model over patches of bytes and a small one inside each patch.

Stage 0 (the global model) reads one position a patch of P bytes, the concatenation of P byte embeddings, shifted by one patch;
its output, cut into P slices, conditions the local model on everything before the patch. The local model predicts the patch byte by byte:

    g[k]    = flatten(E_ge[x] + E_pos)[patch k - 1],  g[0] = learned pad
    l[k, p] = w_GL stack_0(g)[k][slice p] + (E_le[x[kP + p - 1]], or a learned pad where p = 0)
    logits  = E_le stack_1(l)

Applied recursively it has any number of stages: stage s has one position every ``unit`` bytes, in groups of P positions under one
position of the stage above. The attention part costs (T / P)^2 + T P (plus T r with cross-patch attention) instead of T^2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.config import with_changes
from subquad.layers.attention import AttentionConfig
from subquad.layers.patch_conv import ConvEncoder, ConvEncoderState
from subquad.layers.stack import Stack, StackConfig, StackState, init_weights
from subquad.models.base import CausalModel, CausalModelConfig, ModelState, Output, check_causal, cut_to_span
from subquad.ops.ragged import put_rows, run_index, take_rows
from subquad.state import State


class MegabyteConfig(CausalModelConfig):
    """``stages`` from the global model down to the local one; ``patch_size`` is P, or for more than two stages one number for each stage
    but the last: how many positions of the stage below one position holds.

    ``positions``: one learned vector for every byte of the context, on the global side, or none (then let the global mixer be rotary).
    ``cross_patch`` is r, how many positions of the previous patch a stage below the first sees (default: all P; 0: none).
    ``conv_kernels`` puts causal convolutions before patching ((3, 5, 7) in the paper). ``ablation`` names the part that the paper leaves
    out: without the local model the bytes of a patch are predicted from the global output alone; without the global model, patches see
    only their neighbour.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"without": "ablation"}

    kind: Literal["megabyte"] = "megabyte"
    patch_size: int | tuple[int, ...] = 8
    stages: tuple[StackConfig, ...]
    cross_patch: int | None = Field(None, ge=0)
    positions: Literal["learned", "none"] = "learned"
    conv_kernels: tuple[int, ...] = ()
    ablation: Literal["local", "global"] | None = None

    @property
    def patches(self) -> tuple[int, ...]:
        """Positions of the stage below in one position, for each stage but the last."""
        return (self.patch_size,) if isinstance(self.patch_size, int) else self.patch_size

    @property
    def width(self) -> int:
        return max(stage.dim for stage in self.stages)

    @property
    def hidden_width(self) -> int:
        return self.stages[-1].dim

    @model_validator(mode="after")
    def _sizes_fit(self) -> MegabyteConfig:
        if min(self.patches, default=0) < 1:
            raise ValueError(f"patch_size must be at least 1, got {self.patch_size}")
        if len(self.stages) != len(self.patches) + 1:
            raise ValueError(f"{len(self.stages)} stages need {len(self.stages) - 1} patch sizes, got {list(self.patches)}")
        for index, stage in enumerate(self.stages):
            check_causal(stage, f"stage {index}")
            unit = math.prod(self.patches[index:])
            if stage.dim % unit:
                raise ValueError(
                    f"patch_size {unit} does not divide the width {stage.dim} of stage {index}, and a patch is the concatenation of its "
                    f"bytes: change stages.{index}.dim or patch_size"
                )
        if self.max_len % math.prod(self.patches):
            raise ValueError(f"a patch of {math.prod(self.patches)} bytes does not divide max_len {self.max_len}: make max_len a multiple")
        if self.cross_patch is not None and self.cross_patch > min(self.patches):
            raise ValueError(f"cross_patch {self.cross_patch} reaches past the previous patch: use at most {min(self.patches)}")
        if self.conv_kernels and self.ablation == "global":
            raise ValueError("conv_kernels are for the global model, which ablation='global' leaves out: set conv_kernels=[]")
        if any(kernel < 1 for kernel in self.conv_kernels):
            raise ValueError(f"conv_kernels must be positive, got {list(self.conv_kernels)}")
        return self

    def build(self) -> Megabyte:
        return Megabyte(self)


@dataclass
class StageState(State):
    """``slices`` (B, P, D below) is the newest output, projected for the P positions below; the last stage has none."""

    stack: StackState
    conv: ConvEncoderState | None
    slices: Tensor | None = None


@dataclass
class MegabyteState(ModelState):
    """``open_bytes`` (B, bytes of the largest patch) holds the ids of each row's patch that is still open."""

    open_bytes: Tensor
    stages: list[StageState]


class Stage(nn.Module):
    """One scale: embeds units of ``unit`` bytes, adds what the stage above says, mixes.

    ``group`` positions lie under one position of the stage above (None: there is no such limit); each group starts from the pad vector.
    """

    def __init__(self, config: MegabyteConfig, index: int) -> None:
        super().__init__()
        stack, patches = config.stages[index], config.patches
        self.unit = math.prod(patches[index:])
        self.group = patches[index - 1] if index else None
        self.blind = config.ablation == "local" and index == len(patches)
        if self.blind:
            stack = StackConfig.model_validate({**dict(stack), "depth": 0, "overrides": {}})
        lookback = 0 if self.group is None else self.group if config.cross_patch is None else config.cross_patch
        self.embedding = nn.Embedding(config.vocab, stack.dim // self.unit)
        self.pad = None if self.blind else nn.Parameter(torch.empty(stack.dim))
        learned = index == 0 and config.positions == "learned"
        self.positions = nn.Embedding(config.max_len, stack.dim // self.unit) if learned else None
        self.conv = ConvEncoder(stack.dim // self.unit, config.conv_kernels) if index == 0 and config.conv_kernels else None
        first = index == 0 or (index == 1 and config.ablation == "global")
        self.above = None if first else nn.Linear(config.stages[index - 1].dim // patches[index - 1], stack.dim, bias=False)
        self.stack = Stack(stack, config.max_len // self.unit, self.group, lookback)

    def embed(
        self, ids: Tensor, starts: Sequence[int], conv: ConvEncoderState | None = None, counts: Sequence[int] | None = None
    ) -> Tensor:
        """Units of bytes: (B, n * unit), the first at byte ``starts[b]`` -> (B, n, D)."""
        x = self.embedding(ids)
        if self.conv is not None:
            x = self.conv(x) if conv is None else self.conv.prefill(x, conv, counts)
        if self.positions is not None:
            index = run_index(starts, ids.shape[1], ids.device).clamp(max=self.positions.num_embeddings - 1)
            x = x + self.positions(index)
        return x.reshape(x.shape[0], -1, x.shape[2] * self.unit)

    def shift(self, x: Tensor) -> Tensor:
        """Moves units one position on, in each group; the pad vector comes first: (B, n, D) -> (B, n, D), whole groups."""
        assert self.pad is not None
        groups = x if self.group is None else x.reshape(-1, self.group, x.shape[2])
        return torch.cat((self.pad.expand(groups.shape[0], 1, -1).to(x.dtype), groups[:, :-1]), 1).reshape(x.shape)

    def project(self, y: Tensor) -> Tensor:
        """Output of the stage above, (B, n, D above) -> for each of its slices an input of this stage, (B, n * group, D)."""
        assert self.above is not None and self.group is not None
        return self.above(y.reshape(y.shape[0], y.shape[1] * self.group, -1))


class Megabyte(CausalModel[MegabyteState]):
    """See the module's docstring. Ids past the end that only fill up a patch come after all others and so touch nothing."""

    def __init__(self, config: MegabyteConfig) -> None:
        super().__init__()
        self.config: MegabyteConfig = config
        first = 1 if config.ablation == "global" else 0
        stages = nn.ModuleList(Stage(config, index) for index in range(first, len(config.stages)))
        self.stages = cast("Sequence[Stage]", stages)
        self.patch_size = config.patches[-1]
        self.patch_bytes = math.prod(config.patches)  # bytes after which every stage begins a group
        init_weights(self, config.init_std)

    def forward(self, ids: Tensor, span: tuple[int, int] | None = None, *, output: Output = "logits") -> Tensor:
        batch, length = self._check_ids(ids)
        if output == "hidden":
            return self._hidden(F.pad(ids, (0, 1)))
        if length == 0:
            return cut_to_span(self._last.embedding.weight.new_zeros(batch, 0, self.config.vocab), span)
        return cut_to_span(self._logits(self._hidden(ids)), span)

    def _hidden(self, ids: Tensor) -> Tensor:
        """The last stage's output at T > 0 positions, (B, T) -> (B, T, D); position t has seen the ids before t."""
        length = ids.shape[1]
        ids = F.pad(ids, (0, -length % self.patch_bytes))  # whole patches of the first stage
        y: Tensor | None = None  # the output of the stage above, (B, T / unit above, D above)
        for stage in self.stages:
            slices = None if y is None else stage.project(y)  # (B, T / unit, D)
            x = None if stage.blind else stage.shift(stage.embed(ids, [0]))  # (B, T / unit, D)
            y = stage.stack(_joined(x, slices))
        assert y is not None
        return y[:, :length]

    def id_tables(self) -> list[Tensor]:
        return [stage.embedding.weight for stage in self.stages]

    def init_state(self, batch: int, max_len: int | None = None) -> MegabyteState:
        room = self._room(max_len)
        open_bytes = torch.zeros(batch, self.patch_bytes, dtype=torch.long, device=self._last.embedding.weight.device)
        states: list[StageState] = []
        y: Tensor | None = None
        for stage in self.stages:  # each takes its pad vector, the input of its first position
            slices = None
            if y is not None:
                slices = states[-1].slices = stage.project(y)  # (B, group, D)
            conv = None if stage.conv is None else stage.conv.init_state(batch)
            states.append(StageState(stage.stack.init_state(batch, room // stage.unit + 1), conv))
            pad = None if stage.pad is None else stage.pad.expand(batch, 1, -1)
            y = stage.stack.prefill(_joined(pad, None if slices is None else slices[:, :1]), states[-1].stack)  # (B, 1, D)
        assert y is not None
        return MegabyteState(self._logits(y[:, 0]), [0] * batch, room, open_bytes, states)

    def _advance(self, ids: Tensor, counts: Sequence[int], state: MegabyteState) -> Tensor:
        size = self.patch_bytes
        filled = [length % size for length in state.lengths]  # bytes of each row's open patch
        if ids.shape[1] == 1 == min(counts) and len(set(filled)) == 1:  # a step of all rows needs no room beyond the open patch
            put_rows(state.open_bytes, filled, ids)
            return self._logits(self._run_stages(state.open_bytes, filled, counts, state))
        recent = F.pad(state.open_bytes, (0, ids.shape[1]))  # from the start of each row's open patch, (B, size + n)
        put_rows(recent, filled, ids)
        logits = self._logits(self._run_stages(recent, filled, counts, state))
        ends = [fill + count for fill, count in zip(filled, counts, strict=True)]
        state.open_bytes = take_rows(F.pad(recent, (0, size)), [end - end % size for end in ends], size).clone()
        return logits

    def _run_stages(self, recent: Tensor, filled: list[int], counts: Sequence[int], state: MegabyteState) -> Tensor:
        """Runs each stage over the units that the new bytes complete; returns the last stage's output (B, n, D).

        Units count from the start of each row's open patch; unit j is the input of position j + 1. With P = 4, after the 6 bytes b0 .. b5:

            taken so far    the global model: pad, b0-b3           the local model: pad b0 b1 b2 | pad b4 b5
            kept            open_bytes = b4 b5 . .                 slices = 4 vectors, what the global model says of patch 1
            step with b6    completes no patch: 0 new units        1 new unit, 2 before it: reads b6 and slice 3, predicts b7
            step with b7    1 new unit, b4-b7: says 4 slices       1 new unit, 3 before it: begins patch 2, so it reads the pad vector
                            of patch 2, and these are kept         (not b7) and slice 4 of the 8, the first of patch 2; predicts b8
        """
        y: Tensor | None = None
        slices: Tensor | None = None  # what the stage above says of its newest position of before and all new ones, (B, slices, D)
        slices_start = [0] * len(filled)  # the unit of this stage that the first slice is for
        origins = [length - fill for length, fill in zip(state.lengths, filled, strict=True)]  # the first byte of each open patch
        for index, (stage, memory) in enumerate(zip(self.stages, state.stages, strict=True)):
            before = [fill // stage.unit for fill in filled]  # units that were complete
            new = [(fill + count) // stage.unit - units for fill, count, units in zip(filled, counts, before, strict=True)]
            most = max(new)
            if most:
                x = None if stage.blind else self._inputs(stage, memory, recent, origins, before, new)  # (B, most, D)
                first = [units + 1 - start for units, start in zip(before, slices_start, strict=True)]
                said = None if slices is None else take_rows(slices, first, most)  # (B, most, D)
                y = stage.stack.prefill(_joined(x, said), memory.stack, new)  # (B, most, D)
            if index + 1 < len(self.stages):
                below = self.stages[index + 1]
                assert memory.slices is not None and below.group is not None
                slices = memory.slices  # (B, group, D below)
                if most:
                    assert y is not None
                    slices = torch.cat((slices, below.project(y)), 1)  # (B, (1 + most) group, D below)
                    memory.slices = take_rows(slices, [units * below.group for units in new], below.group).clone()
                slices_start = [units * below.group for units in before]
        assert y is not None
        return y

    @staticmethod
    def _inputs(stage: Stage, memory: StageState, recent: Tensor, origins: list[int], before: list[int], new: list[int]) -> Tensor:
        """What a stage reads at its new positions: the unit before each, or the pad vector where a group begins."""
        starts = [units * stage.unit for units in before]  # the first new byte of each row, in ``recent``
        positions = [origin + start for origin, start in zip(origins, starts, strict=True)]  # and in the context
        units = take_rows(recent, starts, max(new) * stage.unit)  # (B, n unit)
        x = stage.embed(units, positions, memory.conv, [count * stage.unit for count in new])  # (B, n, D)
        if stage.group is None:
            return x
        assert stage.pad is not None
        if x.shape[1] == 1 and len(set(before)) == 1:
            return stage.pad.expand_as(x) if (before[0] + 1) % stage.group == 0 else x
        begins = (run_index(before, x.shape[1], x.device) + 1) % stage.group == 0  # (B, n)
        return torch.where(begins.unsqueeze(-1), stage.pad.to(x.dtype), x)

    @property
    def _last(self) -> Stage:
        return self.stages[-1]

    def _logits(self, y: Tensor) -> Tensor:
        return F.linear(y, self._last.embedding.weight)


def _joined(x: Tensor | None, slices: Tensor | None) -> Tensor:
    """A stage's own bytes plus the output of the stage above; the first stage has no stage above, a blind one no bytes."""
    assert x is not None or slices is not None
    return x if slices is None else slices if x is None else x + slices  # type: ignore[return-value]  # one of them is there


def megabyte(
    wide: tuple[int, int, int], narrow: tuple[int, int, int], patch_size: int, max_len: int, init_std: float = 0.006, dropout: float = 0.0
) -> MegabyteConfig:
    """Two stages, each (dim, depth, heads): global positions are learned (per byte), local ones rotary."""
    top = AttentionConfig(heads=wide[2], head_dim=max(wide[0] // wide[2], 1), rotary=False, dropout=dropout)
    stages = (
        StackConfig(dim=wide[0], depth=wide[1], mixer=top, dropout=dropout),
        StackConfig(dim=narrow[0], depth=narrow[1], mixer=AttentionConfig(heads=narrow[2], dropout=dropout), dropout=dropout),
    )
    return MegabyteConfig(max_len=max_len, patch_size=patch_size, stages=stages, init_std=init_std)


def _paper() -> dict[str, MegabyteConfig]:
    """Table 15: (dim, depth, heads) of the global and the local model; heads and what is not printed come from Table 14.

    A width that is not a multiple of P cannot be cut into P slices; the nearest multiple is used (2048 -> 2052 and 2560 -> 2556 for
    P = 12, 4096 -> 4080 for P = 48), with the heads as printed. The rows that cannot be resolved are listed in docs/megabyte.md.
    """
    paper = partial(megabyte, dropout=0.1)
    arxiv = paper((2048, 14, 32), (1024, 18, 16), 8, 8192)
    image256 = paper((768, 12, 12), (768, 12, 12), 192, 196_608)
    audio = paper((1024, 24, 16), (768, 12, 12), 32, 524_288)
    return {
        "megabyte-1.3b": paper((2048, 24, 32), (1024, 15, 16), 8, 8192),
        "megabyte-arxiv": arxiv,
        "megabyte-arxiv-without-local": _without("local", paper((2560, 20, 32), (1024, 18, 16), 4, 8192)),
        "megabyte-arxiv-without-global": _without("global", paper((2048, 14, 32), (1024, 24, 16), 8, 8192)),
        "megabyte-arxiv-without-cross-patch": _unlinked(paper((2048, 17, 32), (1024, 24, 16), 8, 8192)),
        "megabyte-arxiv-conv": _convolved(paper((2048, 13, 32), (1024, 18, 16), 8, 8192)),
        "megabyte-image64": paper((2052, 24, 32), (2048, 24, 32), 12, 12_288),
        "megabyte-image64-sota": paper((2556, 32, 32), (1024, 24, 16), 12, 12_288),
        "megabyte-image256": image256,
        "megabyte-image256-without-local": _without("local", paper((4080, 32, 32), (768, 12, 12), 48, 196_608)),
        "megabyte-image256-without-global": _without("global", image256),
        "megabyte-image256-conv": _convolved(image256),
        "megabyte-image640": paper((768, 12, 12), (768, 8, 12), 192, 1_228_800),
        "megabyte-audio": audio,
        "megabyte-audio-without-local": _without("local", paper((4096, 32, 32), (768, 12, 12), 32, 524_288)),
        "megabyte-audio-without-global": _without("global", audio),
        "megabyte-audio-without-cross-patch": _unlinked(paper((1024, 24, 16), (768, 14, 12), 32, 524_288)),
        "megabyte-audio-conv": _convolved(audio),
    }


def _without(part: Literal["local", "global"], config: MegabyteConfig) -> MegabyteConfig:
    return with_changes(config, {"ablation": part})


def _unlinked(config: MegabyteConfig) -> MegabyteConfig:
    return with_changes(config, {"cross_patch": 0})


def _convolved(config: MegabyteConfig) -> MegabyteConfig:
    return with_changes(config, {"conv_kernels": (3, 5, 7)})


def _laptop(wide: tuple[int, int, int], narrow: tuple[int, int, int], patch_size: int) -> MegabyteConfig:
    """A size for a CPU: a context of 1,024, and weights that start as large as narrow layers need.

    Global positions are rotary: what one position learns serves all others, and a small text has too few bytes to learn 1,024 of them.
    """
    config = megabyte(wide, narrow, patch_size, max_len=1024, init_std=0.08)
    return with_changes(config, {"stages.0.mixer.rotary": True, "positions": "none"})


PRESETS: dict[str, MegabyteConfig] = {
    "megabyte-tiny": _laptop((128, 2, 4), (64, 2, 2), 4),
    "megabyte-small": _laptop((192, 2, 6), (96, 3, 3), 8),
    **_paper(),
}
