"""Byte-level vocabularies: the bytes of each token in a tokenizer.json of GPT-2's kind, read without the package ``tokenizers``."""

from __future__ import annotations

from typing import Any


def _byte_of_character() -> dict[str, int]:
    """GPT-2's spelling of bytes in tokens: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()


def byte_pieces(values: dict[str, Any], name: str) -> dict[int, bytes]:
    """The bytes of each id of a byte-level vocabulary."""
    vocab, added = values["model"]["vocab"], {token["id"] for token in values.get("added_tokens") or ()}
    if not isinstance(vocab, dict) or not (_is_byte_level(values.get("pre_tokenizer")) or _is_byte_level(values.get("normalizer"))):
        kind = values["model"].get("type", "unknown")
        raise ValueError(
            f"{name} is not byte-level (it is of type {kind}), so its tokens are not strings of bytes: "
            "expected a byte-level BPE such as GPT-2's, or let data.tokenizer=N train one"
        )
    try:
        return {int(number): bytes(map(_BYTE_OF.__getitem__, token)) for token, number in vocab.items() if number not in added}
    except KeyError as error:
        raise ValueError(f"{name} is not byte-level: {error} in a token is not a byte in GPT-2's spelling of bytes") from None


def _is_byte_level(part: Any) -> bool:
    """Whether a part of a tokenizer.json is ByteLevel or a sequence that holds it."""
    if isinstance(part, dict):
        inner = [*(part.get("pretokenizers") or ()), *(part.get("normalizers") or ())]
        return part.get("type") == "ByteLevel" or any(map(_is_byte_level, inner))
    return False
