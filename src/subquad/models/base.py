"""The contract of a causal model on ids, obeyed by every model that predicts the next byte or token.

Position t is predicted from positions before t alone; the first one from a learned start vector, so no id is reserved for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypeVar

from subquad.config import Config, differences
from subquad.layers.base import FilterSpectra
from subquad.layers.long_filter import ImplicitFilter
from subquad.layers.stack import StackConfig
from subquad.ops.autocast import at_least_float32
from subquad.ops.ragged import length_mask, take_rows
from subquad.state import State
from subquad.text_tokenizer import TextTokenizer

if TYPE_CHECKING:
    from subquad.models.encoder import Encoder

Spectra = Sequence[FilterSpectra | None]  # of each block, what its weights alone decide, for one length
Output = Literal["logits", "hidden"]
Pooling = Literal["mean", "last"]
_SHOWN = 6  # settings that an error names


class BaseModelConfig(Config, ABC):
    """Base of all models' configs. ``kind`` is the model's name in the table of ``models/__init__.py``.

    ``HAS_BACKBONE`` says that the model puts its own layers on another one, the field ``backbone``.
    """

    HAS_BACKBONE: ClassVar[bool] = False

    kind: str

    @property
    @abstractmethod
    def base_model(self) -> ModelConfig:
        """The config of the part that reads ids: the backbone of a model that has one, else the whole."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that it tells apart; none for a model that does not classify."""
        return ()

    @property
    @abstractmethod
    def width(self) -> int:
        """The widest residual stream."""

    @property
    def default_lr(self) -> float:
        """The peak learning rate of AdamW, 0.5 / width: within a factor of two of GPT-3's table (6e-4 at 768, 2e-4 at 2,048)."""
        return 0.5 / self.width

    @abstractmethod
    def build(self) -> Model:
        """A freshly initialised model. Raises ``ValueError`` when sizes do not fit."""


class ModelConfig(BaseModelConfig, ABC):
    """Base of the configs of models that read up to ``max_len`` ids of a vocabulary."""

    vocab: int = Field(256, gt=0)
    max_len: int = Field(gt=0)
    init_std: float = Field(0.006, gt=0)

    @property
    def base_model(self) -> ModelConfig:
        return self

    @property
    def hidden_width(self) -> int:
        """The width of the last hidden vectors."""
        return self.width

    @property
    def logits_width(self) -> int:
        """The width of the vectors from which logits over the vocabulary are computed; 0 for a model that has none."""
        return self.hidden_width

    @property
    def reads_empty(self) -> bool:
        """Whether a text without ids has hidden vectors, as where a learned start vector stands before all ids."""
        return False


class CausalModelConfig(ModelConfig, ABC):
    """Base of the configs of models that predict the next id."""

    @property
    def reads_empty(self) -> bool:
        return True  # the first id is predicted too, from a vector that has seen none


def check_causal(stack: StackConfig, where: str) -> None:
    """Raises ``ValueError`` for a stack that sees the ids it should predict."""
    if seeing := [mixer.kind for mixer in stack.mixers if not mixer.causal]:
        raise ValueError(f"{where} predicts the next id, but its mixer {seeing[0]!r} sees later ids: make it causal (two_sided=false)")


@dataclass
class ModelState(State):
    """Where the rows of a batch stand: the next position's logits and how many ids each row has taken."""

    logits: Tensor  # (B, V)
    lengths: list[int]
    max_len: int

    def check_capacity(self, counts: Sequence[int]) -> None:
        """Raises ``ValueError`` when a row would take more ids than the state has room for."""
        most = max((length + count for length, count in zip(self.lengths, counts, strict=True)), default=0)
        if most > self.max_len:
            raise ValueError(f"{most} ids do not fit a context of {self.max_len}: prefill fewer ids, or start a new state")


class Model(nn.Module, ABC):
    """Base of all models. ``tokenizer`` is what a token model reads text with; None where ids are bytes.

    ``reversible`` says that its ids have to give the text back, as they do where ids are predicted and their loss is one in bits.
    ``INSTEAD`` is the advice for someone who asks a model that is not causal for the next id.
    """

    INSTEAD: ClassVar[str] = "use another model (subquad models lists them)"

    config: BaseModelConfig
    tokenizer: TextTokenizer | None = None
    reversible: bool = True

    @property
    @abstractmethod
    def vocab(self) -> int:
        """The number of ids that it reads, V."""

    @property
    @abstractmethod
    def max_len(self) -> int:
        """The most ids that it reads at once."""

    @property
    def encoder(self) -> Encoder | None:
        """The encoder that reads its texts; None where a causal model does."""
        return None

    @abstractmethod
    def embeddings(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        pooling: Pooling | None = None,
        spectra: Spectra | None = None,
        call: nn.Module | None = None,
    ) -> Tensor:
        """One vector a text, (B, D): ids (B, T), of which row b uses the first ``lengths[b]`` (None: all); those behind change nothing.

        ``pooling`` of a causal model is the "mean" (None) of its hidden vectors or the "last". ``spectra`` are those of an encoder.
        ``call`` is what is called in place of this module, a wrapper around it. Raises ``ValueError`` for a pooling of an encoder.
        """

    def training_spans(self, length: int) -> list[tuple[int, int]]:
        """The spans of positions, first and end, that training steps on windows of ``length`` ids learn, each as often as the others."""
        return [(0, length)]

    @abstractmethod
    def id_tables(self) -> list[Tensor]:
        """The tables of vectors that ids are looked up in, (V, width) each."""

    def copy_weights(self, start: Model, source: str) -> None:
        """Copies the weights of ``start``, the model of the run ``source``, and takes its tokenizer.

        Raises ``ValueError`` when that model has other shapes, naming the settings that differ, and where filters of another length would
        be stretched silently.
        """
        if state_shapes(start) != state_shapes(self):
            raise ValueError(f"{source} holds another model; the two differ in {_difference(start.config, self.config)}")
        check_same_filters(start, self, source)
        self.load_state_dict(start.state_dict())
        self.tokenizer = start.tokenizer


M = TypeVar("M", bound=Model)
S = TypeVar("S", bound=ModelState, default=Any)  # a model's own state


class CausalModel(Model, ABC, Generic[S]):
    """Base of the causal models. B batch, T ids, V vocabulary.

    ``patch_size`` is the number of bytes in a patch of the last stage that has patches, ``patch_bytes`` in one of the first; 1 without
    patches.
    """

    config: ModelConfig
    patch_size: int = 1
    patch_bytes: int = 1

    @property
    def vocab(self) -> int:
        return self.config.vocab

    @property
    def max_len(self) -> int:
        return self.config.max_len

    @abstractmethod
    def forward(self, ids: Tensor, span: tuple[int, int] | None = None, *, output: Output = "logits") -> Tensor:
        """(B, T) -> logits (B, T, V), where ``logits[:, t]`` predicts position t.

        With a ``span`` of positions, first and end, these alone as training sees them, (B, end - first, V): one of ``training_spans``.
        ``output="hidden"`` gives the vectors that logits are computed from, (B, T + 1, D): vector t has seen the first t ids, the last one
        all of them. A model whose config does not read empty texts has no vector 0, and T of them.
        Raises ``ValueError`` when T exceeds max_len, for ids that are not (B, T), and for a span that is not within the ids.
        """

    def embeddings(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        pooling: Pooling | None = None,
        spectra: Spectra | None = None,
        call: nn.Module | None = None,
    ) -> Tensor:
        if pooling not in (None, "mean", "last"):
            raise ValueError(f'pooling is "mean" or "last", got {pooling!r}')
        hidden = (self if call is None else call)(ids, output="hidden")  # (B, T + 1, D), or T of them without a start
        if lengths is None:
            lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
        return pool(hidden, lengths + self.config.reads_empty, pooling or "mean")

    @abstractmethod
    def init_state(self, batch: int, max_len: int | None = None) -> S:
        """The state before the first id, with room for ``max_len`` ids (default: the whole context)."""

    def prefill(self, ids: Tensor, state: S, lengths: Sequence[int] | None = None) -> Tensor:
        """Takes ids (B, n), of which row b uses the first ``lengths[b]``; returns the logits after each, (B, n, V).

        Logits past a row's length are meaningless. Raises ``ValueError`` when a row's ids do not fit the state.
        """
        _check_shape(ids)
        batch, n = ids.shape
        counts = [n] * batch if lengths is None else list(lengths)
        if len(counts) != batch or not all(0 <= count <= n for count in counts):
            raise ValueError(f"lengths must be {batch} numbers from 0 to {n}, one per row, got {counts}")
        state.check_capacity(counts)
        most = max(counts, default=0)
        if most == 0:
            return state.logits.new_zeros(batch, n, self.config.vocab)
        logits = self._advance(ids[:, :most], counts, state)
        last = take_rows(logits, [max(count - 1, 0) for count in counts], 1).squeeze(1)
        if min(counts) == 0:
            last = torch.where(torch.tensor(counts, device=logits.device).unsqueeze(1) > 0, last, state.logits)
        state.logits = last
        state.lengths = [length + count for length, count in zip(state.lengths, counts, strict=True)]
        return F.pad(logits, (0, 0, 0, n - most)) if n > most else logits

    def step(self, ids: Tensor, state: S) -> Tensor:
        """Takes one id a row, (B,), and returns the logits of the next, (B, V)."""
        if ids.ndim != 1:
            raise ValueError(f"a step takes one id a row, (batch,), got the shape {tuple(ids.shape)}: use prefill for more")
        return self.prefill(ids.unsqueeze(1), state).squeeze(1)

    @abstractmethod
    def _advance(self, ids: Tensor, counts: Sequence[int], state: S) -> Tensor:
        """``prefill`` of n = max(counts) > 0 ids; leaves ``logits`` and ``lengths`` of the state to the caller."""

    def _check_ids(self, ids: Tensor) -> tuple[int, int]:
        """The shape of ids. Raises ``ValueError`` for one that is not (B, T), and for more than the context."""
        _check_shape(ids)
        self._check_length(ids.shape[1])
        return ids.shape[0], ids.shape[1]

    def _check_length(self, length: int) -> None:
        if length > self.config.max_len:
            raise ValueError(f"{length} ids exceed the context of {self.config.max_len}: split them into windows or raise max_len")

    def _room(self, max_len: int | None) -> int:
        room = self.config.max_len if max_len is None else max_len
        self._check_length(room)
        return room


def _check_shape(ids: Tensor) -> None:
    """Raises ``ValueError`` for ids that are not (B, T) whole numbers."""
    if ids.ndim != 2:
        raise ValueError(f"ids must be (batch, length), got the shape {tuple(ids.shape)}: one text is ids[None]")
    if ids.is_floating_point():
        raise ValueError(f"ids must be whole numbers, got {ids.dtype}: convert them with ids.long()")


def cut_to_span(logits: Tensor, span: tuple[int, int] | None) -> Tensor:
    """Logits (B, T, V) at the positions of a span, all without one. Raises ``ValueError`` for a span that is not within T."""
    if span is None:
        return logits
    first, end = span
    if not 0 <= first < end <= logits.shape[1]:
        raise ValueError(f"a span must be within {logits.shape[1]} ids, got {first} to {end}: use one of training_spans")
    return logits[:, first:end]


def pool(hidden: Tensor, counts: Tensor, pooling: Pooling) -> Tensor:
    """One vector of each row, (B, n, D) -> (B, D), where row b has ``counts[b]`` of them: their mean, or the last, which has seen all."""
    hidden = hidden.to(at_least_float32(hidden.dtype))
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), counts - 1]
    inside = length_mask(counts, hidden.shape[1], hidden.device)  # (B, n)
    return hidden.masked_fill(~inside[..., None], 0).sum(1) / counts[:, None]


def state_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of a model's weights."""
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _difference(old: BaseModelConfig, new: BaseModelConfig) -> str:
    """In which settings two models differ, the first few, and the remedy."""
    if old.kind != new.kind:
        return f"kind, {old.kind} there and {new.kind} here: start from a run of such a model"
    keys = [f"model.{key}" for key in differences(old, new)]
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{', '.join(keys[:_SHOWN])}{more}: give the same values to start from its weights"


def check_same_filters(old: nn.Module, new: nn.Module, source: str) -> None:
    """Raises ``ValueError`` where filters of another length, those of the run ``source``, would be stretched silently."""
    filters = [[module for module in model.modules() if isinstance(module, ImplicitFilter)] for model in (old, new)]
    for before, after in zip(*filters, strict=False):  # models that differ otherwise are refused elsewhere
        if before.max_len != after.max_len and after.config.filter_len is None:
            raise ValueError(
                f"the filters of {source} are for {before.max_len} positions and would be stretched to {after.max_len}: set the mixer's "
                f"filter.filter_len to {before.max_len} to continue them, or to {after.max_len} to stretch them"
            )


def layers_of_wrapping(module: nn.Module) -> list[nn.Module]:
    """The module and what it wraps, from the outermost wrapper (``torch.compile``, DDP, FSDP) to the model inside."""
    modules = [module]
    while not isinstance(module, Model):
        inner = getattr(module, "_orig_mod", None) or getattr(module, "module", None)
        if not isinstance(inner, nn.Module):
            break
        modules.append(module := inner)
    return modules


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside what ``torch.compile``, DDP and FSDP wrap around it."""
    return layers_of_wrapping(module)[-1]


def expect_model(module: nn.Module, kind: type[M], message: str) -> M:
    """The model inside of any wrappers, if it is of this kind. Raises ``ValueError`` with the message, in which {} is what it is."""
    model = unwrap(module)
    if not isinstance(model, kind):
        raise ValueError(message.format(type(model).__name__))
    return model


def causal_model(module: nn.Module, what: str) -> CausalModel:
    """The causal model inside of any wrappers; raises ``ValueError`` that says ``what`` needs one for any other."""
    advice = getattr(unwrap(module), "INSTEAD", Model.INSTEAD)
    return expect_model(module, CausalModel, f"{what} needs a causal model, got {{}}: {advice}")  # type: ignore[type-abstract]
