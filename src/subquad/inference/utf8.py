"""Valid UTF-8 as a byte-level state machine: which bytes may come next so that the text stays valid and ends whole.

The well-formed sequences are those of the Unicode standard, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from subquad.data.utf8 import is_continuation

LONGEST = 4


class Utf8State(NamedTuple):
    """The bytes that the open character still needs (0 between characters) and the range of the next one."""

    needed: int = 0
    low: int = 0x80
    high: int = 0xBF


BETWEEN = Utf8State()


def advance(state: Utf8State, byte: int) -> Utf8State | None:
    """The state after one more byte; None where that byte makes the text invalid."""
    if state.needed:
        return Utf8State(state.needed - 1) if state.low <= byte <= state.high else None
    return _lead(byte)


def state_after(data: bytes) -> Utf8State:
    """The state after ``data``, from its tail alone.

    Where the data is not valid UTF-8, its last bytes count as far as they may begin a character.
    """
    state = BETWEEN
    for byte in data[1 - LONGEST :]:
        state = advance(state, byte) or _lead(byte) or BETWEEN
    return state


def unfinished(data: bytes | bytearray) -> int:
    """The number of bytes at the end of the data that begin a character and do not complete it."""
    for place in range(1, min(LONGEST, len(data) + 1)):
        if not is_continuation(data[-place]):
            state = _lead(data[-place])
            return place if state is not None and state.needed >= place else 0
    return 0


def allowed(state: Utf8State, remaining: int) -> npt.NDArray[np.bool_]:
    """Mask ``(256,)`` of the bytes that may come next when ``remaining`` bytes, this one included, can still be written.

    All false only where the open character needs more bytes than are left. The array is shared and read-only.
    """
    return _allowed(state, min(remaining, LONGEST))


@cache
def _allowed(state: Utf8State, remaining: int) -> npt.NDArray[np.bool_]:
    after = [advance(state, byte) for byte in range(256)]
    mask = np.array([following is not None and following.needed < remaining for following in after])
    mask.flags.writeable = False
    return mask


def _lead(byte: int) -> Utf8State | None:
    match byte:
        case _ if byte < 0x80:
            return BETWEEN
        case 0xE0:
            return Utf8State(2, low=0xA0)
        case 0xED:
            return Utf8State(2, high=0x9F)
        case 0xF0:
            return Utf8State(3, low=0x90)
        case 0xF4:
            return Utf8State(3, high=0x8F)
        case _ if 0xC2 <= byte < 0xF4:
            return Utf8State(1 if byte < 0xE0 else 2 if byte < 0xF0 else 3)
    return None
