"""Generating from a prompt, byte by byte or token by token, in batches of unequal prompts.

Beyond the context: a row whose context is full drops its oldest half, by whole patches, and the rest is read again as a new start. A prompt
longer than the context is cut by the same rule, as if it had been fed byte by byte. With a token model these are tokens; output,
``max_bytes`` and stop strings are still bytes, and may end inside a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import torch
from torch import nn

from subquad.inference.checks import Progress, evaluating, text_model, whole
from subquad.inference.sampling import Sampling, draw
from subquad.inference.utf8 import BETWEEN, LONGEST, advance, state_after, unfinished
from subquad.inference.vocab import Vocab

Text = bytes | str
Prompts = list[bytes] | list[str] | list[Text] | tuple[Text, ...]
Stop = Text | Prompts | None
OnFull = Literal["slide", "error"]


# Only the type of the prompt and of the result differ between the two.
# fmt: off
@overload
def generate(model: nn.Module, prompt: Text, *, max_bytes: int = ..., temperature: float = ..., top_k: int | None = ...,
             top_p: float | None = ..., min_p: float | None = ..., repetition_penalty: float | None = ..., stop: Stop = ...,
             utf8: bool = ..., seed: int | Sequence[int] = ..., on_full: OnFull = ..., progress: Progress | None = ...) -> bytes: ...
@overload
def generate(model: nn.Module, prompt: Prompts, *, max_bytes: int = ..., temperature: float = ..., top_k: int | None = ...,
             top_p: float | None = ..., min_p: float | None = ..., repetition_penalty: float | None = ..., stop: Stop = ...,
             utf8: bool = ..., seed: int | Sequence[int] = ..., on_full: OnFull = ...,
             progress: Progress | None = ...) -> list[bytes]: ...
# fmt: on
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
    stop: Stop = None,
    utf8: bool = False,
    seed: int | Sequence[int] = 0,
    on_full: OnFull = "slide",
    progress: Progress | None = None,
) -> bytes | list[bytes]:
    """The continuation of a prompt, without the prompt; a list of prompts gives a list, each as if it were alone.

    At most ``max_bytes`` bytes. Sampling options as in :class:`~subquad.inference.sampling.Sampling`, the penalty over prompt and
    continuation. ``stop``: strings that end the continuation and are not part of it. ``utf8``: only bytes that keep prompt and
    continuation valid UTF-8, ending between characters. ``seed``: of every row, or a list with one per prompt. ``on_full="error"``
    refuses what does not fit the context, a token model's bytes counted as if each were a token. ``progress(done, all)`` is called after
    each step, with bytes of all continuations. A ``str`` is read as UTF-8. Raises
    ``ValueError`` for wrong options, a token model without its tokenizer, and a prompt for one that is not UTF-8.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    options = _Options(sampling, whole(max_bytes, "max_bytes"), _stops(stop), utf8, on_full)
    prompts = prompt if isinstance(prompt, list | tuple) else [prompt]
    decoder = _Decoder(model, prompts, seed, options)
    with evaluating(decoder.modules):  # once for all bytes: changing modes costs as much as a small model's step
        for _ in decoder.steps():
            if progress is not None:
                done = sum(options.max_bytes if row.done else len(row.written) for row in decoder.rows)
                progress(done, options.max_bytes * len(decoder.rows))
    continuations = [bytes(row.written) for row in decoder.rows]
    return continuations if prompts is prompt else continuations[0]


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
    stop: Stop = None,
    utf8: bool = False,
    seed: int = 0,
    on_full: OnFull = "slide",
) -> Iterator[bytes]:
    """The same continuation as :func:`generate` gives, in pieces, each as early as is safe.

    Bytes that may be the beginning of a stop string wait until they are known not to be. With ``utf8`` pieces are whole characters, but for
    the rest of one that the prompt has begun. Wrong options raise at the call.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    options = _Options(sampling, whole(max_bytes, "max_bytes"), _stops(stop), utf8, on_full)
    if isinstance(prompt, list | tuple):
        raise ValueError("stream takes one prompt, got a list: use generate for several")
    return _pieces(_Decoder(model, [prompt], seed, options))


@dataclass(frozen=True)
class _Options:
    """What is the same for every row."""

    sampling: Sampling
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
    """One prompt: the ids in the model's context, and what has been written."""

    def __init__(self, prompt: bytes, seed: int, vocab: Vocab) -> None:
        self.ids = vocab.encode(prompt)
        self.seen = torch.zeros(vocab.size, dtype=torch.bool)
        self.seen[self.ids] = True
        self.utf8_state = state_after(prompt)
        self.generator = torch.Generator().manual_seed(seed)
        self.written = bytearray()
        self.done = False

    def append(self, id_: int, piece: bytes, options: _Options) -> None:
        """Adds an id and the bytes it writes; a finished row continues in the model only."""
        self.ids.append(id_)
        self.seen[id_] = True
        for byte in piece:
            self.utf8_state = advance(self.utf8_state, byte) or BETWEEN
            if self.done:
                continue
            self.written.append(byte)
            stopped = max((len(stop) for stop in options.stops if self.written.endswith(stop)), default=0)
            if stopped:
                del self.written[-stopped:]
            self.done = stopped > 0 or len(self.written) == options.max_bytes

    def remaining(self, options: _Options) -> int:
        """The bytes that it may still write, or room for any character when it is done."""
        return LONGEST if self.done else options.max_bytes - len(self.written)


class _Decoder:
    """Rows, and the model's state of those that are active; one id per row at a time."""

    def __init__(self, model: nn.Module, prompts: Prompts, seed: int | Sequence[int], options: _Options) -> None:
        self.model, tokenizer = text_model(model)
        self.vocab = Vocab(self.model.config.vocab, tokenizer)
        self.modules = list(model.modules())
        self.context = self.model.config.max_len
        self.rows = self.active = _rows(prompts, seed, self.vocab)
        self.options = options
        self._check_room("bytes" if tokenizer is None else "tokens")

    def steps(self) -> Iterator[None]:
        """Writes one byte, or token, to each row at every step; the model is not fed one that nothing follows."""
        for remaining in range(self.options.max_bytes, 0, -1):
            if all(row.done for row in self.rows):
                return
            with evaluating(self.modules):
                if remaining == self.options.max_bytes or any(len(row.ids) == self.context for row in self.active):
                    self._prefill(remaining)
                else:
                    last = torch.tensor([row.ids[-1] for row in self.active], device=self.state.logits.device)  # (B,)
                    self.model.step(last, self.state)
                self._sample()
            yield

    def _prefill(self, remaining: int) -> None:
        """A new state that has read the ids of each row, after a full row has dropped its oldest half."""
        self.active = [row for row in self.active if not row.done]
        for row in self.active:
            del row.ids[: self._num_dropped(len(row.ids))]
        lengths = [len(row.ids) for row in self.active]
        longest = max(lengths)
        self.state = self.model.init_state(len(self.active), max_len=min(self.context, longest + remaining))
        if longest:
            ids = torch.zeros(len(self.active), longest, dtype=torch.int64)
            for i, row in enumerate(self.active):
                ids[i, : lengths[i]] = torch.tensor(row.ids, dtype=torch.int64)
            self.model.prefill(ids.to(self.state.logits.device), self.state, lengths)

    def _sample(self) -> None:
        seen = torch.stack([row.seen for row in self.active]) if self.options.sampling.repetition_penalty else None
        masks = self.vocab.nonempty()
        if self.options.utf8:
            masks = np.stack([self.vocab.valid_utf8(row.utf8_state, row.remaining(self.options)) for row in self.active])
        allowed = None if masks is None else torch.from_numpy(masks)
        ids = draw(self.state.logits, self.options.sampling, [row.generator for row in self.active], seen, allowed)
        for row, id_ in zip(self.active, ids, strict=True):
            row.append(id_, self.vocab.pieces[id_], self.options)

    def _num_dropped(self, length: int) -> int:
        """How many of ``length`` ids are dropped by the time one more is needed."""
        patch, half = self.model.patch_bytes, self.context - self.context // 2
        dropped = min(-(-half // patch) * patch, self.context)
        return 0 if length < self.context else dropped * (1 + (length - self.context) // dropped)

    def _check_room(self, unit: str) -> None:
        max_bytes = self.options.max_bytes
        for row in self.rows:
            needed = len(row.ids) + max_bytes
            if self.options.on_full == "error" and needed > self.context:
                raise ValueError(
                    f"a prompt of {len(row.ids)} {unit} and max_bytes={max_bytes} need {needed} {unit} and the context is "
                    f"{self.context}: shorten one of them or use on_full='slide'"
                )
            if self.options.utf8 and 0 < max_bytes < row.utf8_state.needed:
                raise ValueError(
                    f"the prompt ends inside a character that needs {row.utf8_state.needed} more bytes, got max_bytes={max_bytes}"
                )


def _pieces(decoder: _Decoder) -> Iterator[bytes]:
    (row,), sent = decoder.rows, 0
    for _ in decoder.steps():
        safe = len(row.written) - _stop_prefix(row.written, decoder.options.stops)
        if decoder.options.utf8:
            safe = min(safe, len(row.written) - unfinished(row.written))
        if safe > sent:
            yield bytes(row.written[sent:safe])
            sent = safe
    if len(row.written) > sent:
        yield bytes(row.written[sent:])


def _stop_prefix(text: bytearray, stops: tuple[bytes, ...]) -> int:
    """Length of the longest end of the text that begins a stop string."""
    longest = max(map(len, stops), default=0)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


def _rows(prompts: Prompts, seed: int | Sequence[int], vocab: Vocab) -> list[_Row]:
    seeds = [whole(number, "seed") for number in (seed if isinstance(seed, Iterable) else [seed] * len(prompts))]
    if len(seeds) != len(prompts):
        raise ValueError(f"seed must be one number or one per prompt, got {len(seeds)} for {len(prompts)} prompts")
    for number in seeds:
        if not 0 <= number < 2**64:
            raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, got {number!r}")
    return [_Row(_bytes(prompt, "prompt"), number, vocab) for prompt, number in zip(prompts, seeds, strict=True)]


def _stops(stop: Stop) -> tuple[bytes, ...]:
    strings = stop if isinstance(stop, list | tuple) else [] if stop is None else [stop]
    stops = tuple(_bytes(string, "stop") for string in strings)
    if b"" in stops:
        raise ValueError("a stop string must hold at least one byte, got an empty one")
    return stops


def _bytes(value: Text, name: str) -> bytes:
    if isinstance(value, str):
        # Bytes of the command line that are not UTF-8 arrive as surrogate escapes, and this gives them back.
        return value.encode("utf-8", errors="surrogateescape")
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"{name} must be bytes or str, or a list of them, got {type(value).__name__}")
    return bytes(value)
