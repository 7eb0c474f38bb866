"""Files of a repository of the Hugging Face hub, by ``org/name`` or ``org/name@revision``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from subquad.errors import RunError


def repository(path: str | Path) -> tuple[str, str | None] | None:
    """The repository and revision that a text names; None for a path, and for what may be one of a folder that is there."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", path) if isinstance(path, str) else None
    if found is None or Path(path).exists() or Path(path).parent.exists():
        return None
    return found[1], found[2]


def fetched(repo: str, revision: str | None, names: Sequence[str]) -> Path:
    """The folder of a local copy with the files of these names (globs). Raises ``RunError`` where there is none and none can be made."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise RunError(f"there is no folder {repo}; to load it from the Hugging Face hub: pip install 'subquad[hf]'") from error
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(names)))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"{repo} is not a local folder and could not be loaded from the Hugging Face hub ({reason}): check its name and the connection"
        ) from error
