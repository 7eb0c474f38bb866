"""Writing on from a prompt, byte by byte or token by token, in batches of unequal prompts.

Past the context: a row that holds as many bytes as the context does, and needs one more, drops its oldest half by whole patches, and
the rest is read again as a new start. A prompt longer than the context is cut by the same rule, as if it had been fed byte by byte.
With a token model these are tokens; what is written, ``max_bytes`` and stop strings are bytes all the same, and may end inside a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import torch
from torch import nn

from subquad.inference.checks import evaluating, text_model
from subquad.inference.sampling import Sampling, draw
from subquad.inference.utf8 import BETWEEN, LONGEST, advance, state_after
from subquad.inference.vocab import Alphabet

Text = bytes | str
Prompts = list[bytes] | list[str] | list[Text]
OnFull = Literal["slide", "error"]


@overload
def generate(
    model: nn.Module,
    prompt: Text,
    *,
    max_bytes: int = ...,
    temperature: float = ...,
    top_k: int | None = ...,
    top_p: float | None = ...,
    min_p: float | None = ...,
    repetition_penalty: float | None = ...,
    stop: Text | Prompts | None = ...,
    utf8: bool = ...,
    seed: int | list[int] = ...,
    on_full: OnFull = ...,
) -> bytes: ...


@overload
def generate(
    model: nn.Module,
    prompt: Prompts,
    *,
    max_bytes: int = ...,
    temperature: float = ...,
    top_k: int | None = ...,
    top_p: float | None = ...,
    min_p: float | None = ...,
    repetition_penalty: float | None = ...,
    stop: Text | Prompts | None = ...,
    utf8: bool = ...,
    seed: int | list[int] = ...,
    on_full: OnFull = ...,
) -> list[bytes]: ...


def generate(
    model: nn.Module,
    prompt: Text | Prompts,
    *,
    max_bytes: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: Text | Prompts | None = None,
    utf8: bool = False,
    seed: int | list[int] = 0,
    on_full: OnFull = "slide",
) -> bytes | list[bytes]:
    """The continuation of a prompt, without the prompt; a list of prompts gives a list, each as if it were alone.

    At most ``max_bytes`` bytes. Sampling options as in :class:`~subquad.inference.sampling.Sampling`, the penalty over prompt and
    continuation. ``stop``: strings that end the continuation and are not part of it. ``utf8``: only bytes that keep prompt and
    continuation valid UTF-8, ending between characters. ``seed``: of every row, or a list with one per prompt. ``on_full="error"``
    refuses what does not fit the context, a token model's bytes counted as if each were a token. A ``str`` is read as UTF-8. Raises
    ``ValueError`` for wrong options, a token model without its tokenizer, and a prompt for one that is not UTF-8.
    """
    how = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    plan = _Plan(how, max_bytes, _stops(stop), utf8, on_full)
    prompts = prompt if isinstance(prompt, list) else [prompt]
    writer = _Writer(model, prompts, seed, plan)
    with evaluating(writer.modules):  # once for all bytes: changing modes costs as much as a small model's step
        for _ in writer.turns():
            pass
    written = [bytes(row.written) for row in writer.rows]
    return written if isinstance(prompt, list) else written[0]


def stream(
    model: nn.Module,
    prompt: Text,
    *,
    max_bytes: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: Text | Prompts | None = None,
    utf8: bool = False,
    seed: int = 0,
    on_full: OnFull = "slide",
) -> Iterator[bytes]:
    """The same continuation as :func:`generate` gives, in pieces, each as early as is safe.

    Bytes that may be the beginning of a stop string wait until they are known not to be. Wrong options raise at the call.
    """
    how = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    plan = _Plan(how, max_bytes, _stops(stop), utf8, on_full)
    if isinstance(prompt, list):
        raise ValueError("stream takes one prompt, got a list: use generate for several")
    return _pieces(_Writer(model, [prompt], seed, plan))


@dataclass(frozen=True)
class _Plan:
    """Everything asked for that is the same for every row."""

    how: Sampling
    max_bytes: int
    stops: tuple[bytes, ...]
    utf8: bool
    on_full: OnFull

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {self.max_bytes}")
        if self.on_full not in ("slide", "error"):
            raise ValueError(f"on_full must be 'slide' or 'error', got {self.on_full!r}")
        for stop in self.stops if self.utf8 else ():
            # A stop string that cuts a character in two would leave the text before it invalid.
            if stop.decode("utf-8", errors="ignore").encode() != stop:
                raise ValueError(f"with utf8 a stop string must be valid UTF-8 itself, got {stop!r}")


class _Row:
    """One prompt: the ids of it and after it that the model holds, and what has been written."""

    def __init__(self, prompt: bytes, seed: int, alphabet: Alphabet) -> None:
        self.held = alphabet.read(prompt)
        self.seen = np.zeros(alphabet.vocab, dtype=np.bool_)
        self.seen[self.held] = True
        self.open = state_after(prompt)
        self.generator = torch.Generator().manual_seed(seed)
        self.written = bytearray()
        self.done = False

    def take(self, drawn: int, piece: bytes, plan: _Plan) -> None:
        """Adds a drawn id and what it writes; a row that is done goes on in the model only."""
        self.held.append(drawn)
        self.seen[drawn] = True
        for byte in piece:
            self.open = advance(self.open, byte) or BETWEEN
            if self.done:
                continue
            self.written.append(byte)
            ended = max((len(stop) for stop in plan.stops if self.written.endswith(stop)), default=0)
            if ended:
                del self.written[-ended:]
            self.done = ended > 0 or len(self.written) == plan.max_bytes

    def left(self, plan: _Plan) -> int:
        """The bytes that it may still write, or room for any character when it is done."""
        return LONGEST if self.done else plan.max_bytes - len(self.written)


class _Writer:
    """Rows and the model's state of those that still go on; one id per row at a time."""

    def __init__(self, model: nn.Module, prompts: Prompts, seed: int | list[int], plan: _Plan) -> None:
        self.model, tokenizer = text_model(model)
        self.alphabet = Alphabet(self.model.config.vocab, tokenizer)
        self.modules = list(model.modules())
        self.context = self.model.config.max_len
        self.rows = self.live = _rows(prompts, seed, self.alphabet)
        self.plan = plan
        self._check_room("bytes" if tokenizer is None else "tokens")

    def turns(self) -> Iterator[None]:
        """Writes one byte, or token, to each row at every turn; the model is not fed one that nothing follows."""
        for left in range(self.plan.max_bytes, 0, -1):
            if all(row.done for row in self.rows):
                return
            with evaluating(self.modules):
                if left == self.plan.max_bytes or any(len(row.held) == self.context for row in self.live):
                    self._start(left)
                else:
                    last = torch.tensor([row.held[-1] for row in self.live], device=self.state.logits.device)
                    self.model.step(last, self.state)
                self._draw()
            yield

    def _start(self, left: int) -> None:
        """A new state that has read what each row holds, after a full row has dropped its oldest half."""
        self.live = [row for row in self.live if not row.done]
        for row in self.live:
            del row.held[: self._excess(len(row.held))]
        lengths = [len(row.held) for row in self.live]
        longest = max(lengths)
        self.state = self.model.init_state(len(self.live), max_len=min(self.context, longest + left))
        if longest:
            ids = torch.zeros(len(self.live), longest, dtype=torch.int64)
            for i, row in enumerate(self.live):
                ids[i, : lengths[i]] = torch.tensor(row.held, dtype=torch.int64)
            self.model.prefill(ids.to(self.state.logits.device), self.state, lengths)

    def _draw(self) -> None:
        seen = np.stack([row.seen for row in self.live]) if self.plan.how.repetition_penalty else None
        may = self.alphabet.writing()
        if self.plan.utf8:
            may = np.stack([self.alphabet.keeping_utf8(row.open, row.left(self.plan)) for row in self.live])
        drawn = draw(self.state.logits, self.plan.how, [row.generator for row in self.live], seen, may)
        for row, one in zip(self.live, drawn, strict=True):
            row.take(one, self.alphabet.pieces[one], self.plan)

    def _excess(self, length: int) -> int:
        """How many of ``length`` ids are dropped by the time one more is needed."""
        patch, half = self.model.patch_bytes, self.context - self.context // 2
        dropped = min(-(-half // patch) * patch, self.context)
        return 0 if length < self.context else dropped * (1 + (length - self.context) // dropped)

    def _check_room(self, unit: str) -> None:
        for row in self.rows:
            needed = len(row.held) + self.plan.max_bytes
            if self.plan.on_full == "error" and needed > self.context:
                raise ValueError(
                    f"a prompt of {len(row.held)} {unit} and max_bytes={self.plan.max_bytes} need {needed} {unit} and the context is "
                    f"{self.context}: shorten one of them or use on_full='slide'"
                )
            if self.plan.utf8 and 0 < self.plan.max_bytes < row.open.needed:
                raise ValueError(
                    f"the prompt ends inside a character that needs {row.open.needed} more bytes, got max_bytes={self.plan.max_bytes}"
                )


def _pieces(writer: _Writer) -> Iterator[bytes]:
    (row,), sent = writer.rows, 0
    for _ in writer.turns():
        safe = len(row.written) - _held_back(row, writer.plan.stops)
        if safe > sent:
            yield bytes(row.written[sent:safe])
            sent = safe
    if len(row.written) > sent:
        yield bytes(row.written[sent:])


def _held_back(row: _Row, stops: tuple[bytes, ...]) -> int:
    """Length of the longest end of the text that begins a stop string."""
    longest = max(map(len, stops), default=0)
    for length in range(min(longest - 1, len(row.written)), 0, -1):
        if any(stop.startswith(row.written[-length:]) for stop in stops):
            return length
    return 0


def _rows(prompts: Prompts, seed: int | list[int], alphabet: Alphabet) -> list[_Row]:
    seeds = seed if isinstance(seed, list) else [seed] * len(prompts)
    if len(seeds) != len(prompts):
        raise ValueError(f"seed must be one number or one per prompt, got {len(seeds)} for {len(prompts)} prompts")
    for one in seeds:
        if not isinstance(one, int) or not 0 <= one < 2**64:
            raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, got {one!r}")
    return [_Row(_bytes(prompt, "prompt"), one, alphabet) for prompt, one in zip(prompts, seeds, strict=True)]


def _stops(stop: Text | Prompts | None) -> tuple[bytes, ...]:
    given = stop if isinstance(stop, list) else [] if stop is None else [stop]
    stops = tuple(_bytes(one, "stop") for one in given)
    if b"" in stops:
        raise ValueError("a stop string must hold at least one byte, got an empty one")
    return stops


def _bytes(value: Text, name: str) -> bytes:
    if isinstance(value, str):
        # Bytes of the command line that are no UTF-8 arrive as surrogate escapes, and this gives them back.
        return value.encode("utf-8", errors="surrogateescape")
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"{name} must be bytes or str, or a list of them, got {type(value).__name__}")
    return bytes(value)
