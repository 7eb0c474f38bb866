"""An encoder of whole texts, two-sided: BERT with attention, M2-BERT with Monarch mixers (arXiv 2310.12109).

    x = norm(E[id] + P[position] + S[type]),   h = stack(x)  (T, D)
    head "mlm":   logits[t] = E norm(gelu(W h[t])) + b, the id at t;        head "none":   pooled(h)

``pooled`` is the mean over a text's positions or the first one, and whatever ``pooling`` adds; classes and numbers are read from it by a
``Classifier``. B batch, T ids, D width, V vocabulary. Cost in T: that of the stack's mixer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from subquad.config import Config, with_changes
from subquad.layers.attention import AttentionConfig
from subquad.layers.base import MixerConfig
from subquad.layers.feedforward import FeedForwardConfig
from subquad.layers.long_filter import ImplicitFilter, ImplicitFilterConfig
from subquad.layers.m2_bert_mixer import M2BertMixerConfig
from subquad.layers.stack import Stack, StackConfig, init_weights
from subquad.models.base import Model, ModelConfig, Pooling, Spectra, check_same_filters
from subquad.ops.autocast import at_least_float32
from subquad.ops.ragged import length_mask


class PoolingConfig(Config):
    """How the vectors of a text become one: their ``mean``, without padding, or the ``first``.

    ``dense`` adds BERT's pooler, a linear map and a tanh; ``normalized`` makes the length 1.
    """

    over: Literal["mean", "first"] = "mean"
    dense: bool = False
    normalized: bool = False


class EncoderConfig(ModelConfig):
    """``positions`` are learned vectors; ``types`` is the number of kinds of segments that ids may belong to, 0 for none.

    ``head`` is what comes out: "mlm", the logits of the id at each position; "none", an embedding. ``padding="official"`` keeps the
    mask from the mixers, as the official M2-BERT does, so that padding changes results; embeddings are then of texts filled up to the
    context. ``mask_token`` replaces masked ids: an id of the vocabulary, or a "learned" vector.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"blank": "mask_token"}

    kind: Literal["encoder"] = "encoder"
    init_std: float = Field(0.02, gt=0)
    stack: StackConfig
    positions: Literal["learned", "none"] = "learned"
    types: int = Field(0, ge=0)
    head: Literal["mlm", "none"] = "mlm"
    pooling: PoolingConfig = PoolingConfig()
    padding: Literal["masked", "official"] = "masked"
    mask_token: int | Literal["learned"] | None = None

    @model_validator(mode="after")
    def _fits(self) -> EncoderConfig:
        if isinstance(self.mask_token, int) and not 0 <= self.mask_token < self.vocab:
            raise ValueError(f'mask_token must be one of the {self.vocab} ids, 0 to {self.vocab - 1}, or "learned", got {self.mask_token}')
        return self

    @property
    def width(self) -> int:
        return self.stack.dim

    @property
    def logits_width(self) -> int:
        return self.width if self.head == "mlm" else 0

    @property
    def default_lr(self) -> float:
        """At most 4e-3, or 1e-3 with norms after the blocks: larger rates leave small encoders at the frequencies of ids (papers: 5e-4,
        8e-4)."""
        return min(super().default_lr, 1e-3 if self.stack.norm == "after" else 4e-3)

    def build(self) -> Encoder:
        return Encoder(self)


class Encoder(Model):
    """See the module's docstring."""

    INSTEAD = (
        "an encoder predicts masked positions, not what comes next: use it with subquad embed, fine-tune it with subquad train classifier, "
        "or take a causal model"
    )

    config: EncoderConfig
    reversible = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.stack.dim
        self.embedding = nn.Embedding(config.vocab, dim)
        self.positions = nn.Embedding(config.max_len, dim) if config.positions == "learned" else None
        self.types = nn.Embedding(config.types, dim) if config.types else None
        self.blank = nn.Parameter(torch.empty(dim)) if config.mask_token == "learned" else None  # its name in run folders since 0.1.0
        self.norm = nn.LayerNorm(dim, config.stack.norm_eps)
        self.dropout = nn.Dropout(config.stack.dropout)
        self.stack = Stack(config.stack, config.max_len)
        self.pooler = nn.Linear(dim, dim) if config.pooling.dense and config.head != "mlm" else None
        self.head = MaskedHead(dim, config.vocab, config.stack.norm_eps) if config.head == "mlm" else None
        init_weights(self, config.init_std)

    @property
    def vocab(self) -> int:
        return self.config.vocab

    @property
    def max_len(self) -> int:
        return self.config.max_len

    def id_tables(self) -> list[Tensor]:
        return [self.embedding.weight]

    def copy_weights(self, start: Model, source: str) -> None:
        """See ``Model.copy_weights``. An encoder without a head leaves out that of ``start``, and keeps its own pooler where ``start`` has
        none; one with a longer context begins as ``extend_context`` makes it."""
        super().copy_weights(self._fitted(start, source) if isinstance(start, Encoder) else start, source)
        self.tokenizer = start.tokenizer

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        token_types: Tensor | None = None,
        masked: Tensor | None = None,
        positions: Tensor | None = None,
        spectra: Spectra | None = None,
        output: Literal["head", "embedding", "hidden"] = "head",
    ) -> Tensor:
        """ids (B, T) -> logits (B, T, V) or embeddings (B, D), as the head says.

        ``mask`` (B, T) is True, or 1, at a text's own positions, which come first; padding behind them changes nothing. ``token_types``
        (B, T) are those of the ids, 0 without. ``masked`` (B, T) is True where the mask token replaces the id. With ``positions``
        (N,), places in the flattened (B T), logits (N, V) are of these alone. ``spectra`` as ``prepare`` made them.

        ``output="embedding"`` gives one vector a text, (B, D), whatever the head; ``"hidden"`` the vectors after the last block, (B, T, D).
        Raises ``ValueError`` when T exceeds max_len, for shapes that differ, and for a text without ids.
        """
        self._check(ids, mask, token_types, masked)
        if output == "embedding":
            ids, mask, token_types = self._filled_up(ids, mask, token_types)
        h = self._hidden(ids, mask, token_types, masked, spectra)
        if output == "hidden":
            return h
        if output == "embedding" or self.head is None:
            if positions is not None:
                raise ValueError('positions select logits, but this output has none: leave them out, or build the encoder with head="mlm"')
            return self._pooled(h, mask)
        return self.head(h if positions is None else h.flatten(0, 1).index_select(0, positions), self.embedding.weight)

    @property
    def encoder(self) -> Encoder:
        return self

    def embeddings(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        pooling: Pooling | None = None,
        spectra: Spectra | None = None,
        call: nn.Module | None = None,
    ) -> Tensor:
        if pooling is not None:
            raise ValueError(f"an encoder pools as its config says, got pooling={pooling!r}: leave it out")
        mask = None if lengths is None else length_mask(lengths, ids.shape[1], ids.device)  # (B, T)
        return (self if call is None else call)(ids, mask, spectra=spectra, output="embedding")

    def prepare(self, length: int | None = None) -> Spectra:
        """What depends on the weights alone, for texts of up to ``length`` ids: filter spectra. It holds until they change."""
        return self.stack.prepare(self.padded_length(self.config.max_len if length is None else length))

    def padded_length(self, length: int) -> int:
        """How long texts of ``length`` ids are when they are embedded: filled up to the context where padding is read."""
        return self.config.max_len if self.config.padding == "official" else length

    def _fitted(self, start: Encoder, source: str) -> Encoder:
        """``start`` without its head where this encoder has none, and with this one's context where that is longer."""
        from subquad.models.extend_context import extend_context  # which builds encoders

        if self.config.head == "none" != start.config.head:
            start = self._without_head(start)
        if self.max_len <= start.max_len:
            return start
        check_same_filters(start, self, source)
        lengths = [module.config.filter_len for module in self.modules() if isinstance(module, ImplicitFilter)]
        return extend_context(start, self.max_len, "stretched" if self.max_len in lengths else "continued")

    def _without_head(self, start: Encoder) -> Encoder:
        """``start`` without its head; a pooler that it lacks is this encoder's."""
        headless = with_changes(start.config, {"head": "none", "pooling": self.config.pooling.model_dump()}).build()
        pooler = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("pooler.")}
        trained = {name: tensor for name, tensor in start.state_dict().items() if not name.startswith("head.")}
        headless.load_state_dict(pooler | trained if headless.pooler is not None else trained)
        return headless

    def _hidden(
        self, ids: Tensor, mask: Tensor | None, token_types: Tensor | None, masked: Tensor | None, spectra: Spectra | None
    ) -> Tensor:
        x = self._embed(ids, masked)  # (B, T, D)
        if self.positions is not None:
            x = x + self.positions.weight[: ids.shape[1]]
        if self.types is not None:
            x = x + (self.types.weight[0] if token_types is None else self.types(token_types))
        real = mask.bool() if mask is not None and self.config.padding == "masked" else None
        h: Tensor = self.stack(self.dropout(self.norm(x)), real, spectra)
        return h

    def _embed(self, ids: Tensor, masked: Tensor | None) -> Tensor:
        if masked is None:
            return self.embedding(ids)
        if isinstance(self.config.mask_token, int):
            return self.embedding(ids.masked_fill(masked.bool(), self.config.mask_token))
        if self.blank is None:
            raise ValueError('this encoder has no mask token (mask_token=null): set mask_token to an id or to "learned"')
        return torch.where(masked.bool().unsqueeze(-1), self.blank, self.embedding(ids))

    def _filled_up(self, ids: Tensor, mask: Tensor | None, token_types: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Texts (B, T) -> (B, max_len), padded with 0, for an encoder that reads its padding: it was trained on such."""
        missing = self.padded_length(ids.shape[1]) - ids.shape[1]
        if self.config.padding == "masked" or (missing == 0 and mask is None):
            return ids, mask, token_types
        real = F.pad(torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool(), (0, missing))
        ids = F.pad(ids, (0, missing)).masked_fill(~real, 0)
        return ids, real, None if token_types is None else F.pad(token_types, (0, missing))

    def _pooled(self, h: Tensor, mask: Tensor | None) -> Tensor:
        if h.shape[1] == 0:
            raise ValueError("a text without ids has no embedding: leave it out")
        h = h.to(at_least_float32(h.dtype))
        if self.config.pooling.over == "first":
            pooled = h[:, 0]
        elif mask is None:
            pooled = h.mean(1)
        else:
            real = mask.bool().unsqueeze(-1)
            pooled = h.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)
        if self.pooler is not None:
            pooled = torch.tanh(self.pooler(pooled))
        return F.normalize(pooled, dim=-1) if self.config.pooling.normalized else pooled

    def _check(self, ids: Tensor, mask: Tensor | None, token_types: Tensor | None, masked: Tensor | None) -> None:
        if ids.ndim != 2:
            raise ValueError(f"ids must be (B, T), one row per text, got {tuple(ids.shape)}: put a single text into a batch of 1")
        if ids.shape[1] > self.config.max_len:
            raise ValueError(
                f"{ids.shape[1]} ids exceed the context of {self.config.max_len}: truncate the text, or use subquad.extend_context"
            )
        if token_types is not None and self.types is None:
            raise ValueError("this encoder has no token types (types=0): leave token_types out")
        for name, given in (("a mask", mask), ("token_types", token_types), ("masked", masked)):
            if given is not None and given.shape != ids.shape:
                raise ValueError(
                    f"{name} must have the shape of the ids, {tuple(ids.shape)}, got {tuple(given.shape)}: give one entry per id"
                )
        if mask is not None and not torch.compiler.is_compiling():
            _check_right_padding(mask.bool())


def _check_right_padding(mask: Tensor) -> None:
    """Raises ``ValueError`` for a mask (B, T) with a row that has no real id, or where padding comes before one."""
    before = F.pad(mask, (1, 0), value=True)[:, :-1]
    if mask.shape[1] == 0 or bool((mask[:, 0] & (mask <= before).all(1)).all()):  # one look at the numbers, for which a device must wait
        return
    if empty := (~mask.any(1)).nonzero().flatten().tolist():
        raise ValueError(f"row {empty[0]} of the mask has no real id: leave this text out")
    raise ValueError("a mask must be 1 at the ids of each text and 0 at the padding after them: pad on the right")


class MaskedHead(nn.Module):
    """BERT's head for masked language modelling: (..., D) -> logits (..., V), tied to a table (V, D)."""

    def __init__(self, dim: int, vocab: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps)
        self.bias = nn.Parameter(torch.zeros(vocab))

    def forward(self, h: Tensor, table: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(h))), table, self.bias)


def bert(dim: int, depth: int, heads: int, max_len: int = 512) -> EncoderConfig:
    """BERT (arXiv 1810.04805) with its vocabulary."""
    stack = _stack(
        dim, depth, AttentionConfig(heads=heads, rotary=False, two_sided=True, dropout=0.1), FeedForwardConfig(activation="gelu")
    )
    return EncoderConfig(vocab=30_522, max_len=max_len, stack=stack, types=2, mask_token=103)


def m2_bert(dim: int, depth: int = 12, max_len: int = 128) -> EncoderConfig:
    """M2-BERT with BERT's vocabulary, filled up to a multiple of 8, as its code does."""
    filter_ = ImplicitFilterConfig(features=5, width=128, learned_features=True, init_std=0.02)
    return EncoderConfig(vocab=30_528, max_len=max_len, stack=_m2_stack(dim, depth, filter_, dropout=0.1), types=2, mask_token=103)


def _stack(dim: int, depth: int, mixer: MixerConfig, feedforward: FeedForwardConfig, dropout: float = 0.1) -> StackConfig:
    return StackConfig(dim=dim, depth=depth, mixer=mixer, feedforward=feedforward, norm="after", norm_eps=1e-12, dropout=dropout)


def _m2_stack(dim: int, depth: int, filter_: ImplicitFilterConfig, dropout: float) -> StackConfig:
    feedforward = FeedForwardConfig(activation="gelu", gated=True, blocks=4, up_bias=False)
    stack = _stack(dim, depth, M2BertMixerConfig(two_sided=True, filter=filter_), feedforward, dropout)
    return with_changes(stack, {"mixer_residual": False})


def _tiny(stack: StackConfig) -> EncoderConfig:
    """Of bytes, with norms before the blocks and a residual around the mixer: a small encoder learns far more in a few hundred steps."""
    stack = with_changes(stack, {"norm": "before", "mixer_residual": True})
    return EncoderConfig(max_len=1024, mask_token="learned", stack=stack, init_std=0.08)


PRESETS: dict[str, EncoderConfig] = {
    "bert-tiny": _tiny(_stack(64, 2, AttentionConfig(heads=2, rotary=False, two_sided=True), FeedForwardConfig(activation="gelu"), 0.0)),
    "bert-base": bert(768, 12, 12),
    "m2-bert-tiny": _tiny(_m2_stack(64, 2, ImplicitFilterConfig(features=5, width=32), 0.0)),
    "m2-bert-80m": m2_bert(768),
    "m2-bert-110m": m2_bert(960),
    "m2-bert-260m": m2_bert(1536),
    "m2-bert-341m": m2_bert(1792),
}
