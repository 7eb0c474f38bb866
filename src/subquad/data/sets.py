"""Public data sets by name: where each comes from, under which licence, and its files with size and hash.

The table is ``sets.json``. A set lies in a folder of its own name below the data root, the folder in the environment variable SUBQUAD_DATA
or, without it, ``subquad/data`` in the user's cache folder. ``NAME:`` stands for the files of a set wherever data are named, and
``NAME:*.xz`` for some of them. A file without a ``url`` was cut or packed from its source and has to be put there by hand; one with an
``original`` is the xz-compressed form of what the URL gives. A file without ``sha256`` or ``md5`` is not pinned.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Iterable
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from subquad.config import suggest
from subquad.console import WorkProgress
from subquad.errors import RunError
from subquad.parsing import parse_json
from subquad.system import no_link, temporary_folder, write_atomic

RETRIES = 3
TIMEOUT = 60  # seconds without a byte
_PIECE = 1 << 16  # bytes that are written at once


@cache
def data_sets() -> dict[str, dict[str, Any]]:
    """Every known set by its name: ``about``, ``source``, ``licence`` and ``files``."""
    return dict(parse_json(resources("subquad.data").joinpath("sets.json").read_text(encoding="utf-8")))


def full_name(name: str) -> str:
    """The name of a set; its last part is enough where it is one set's alone. Raises ``ValueError`` for an unknown one."""
    sets = data_sets()
    endings = [one for one in sets if one.rpartition("/")[2] == name]
    if name in sets or len(endings) != 1:
        if name not in sets:
            raise ValueError(f"there is no data set {name!r}: {suggest(name, sets)} (subquad data list shows all)")
        return name
    return endings[0]


def data_root() -> Path:
    """The folder that holds the data sets."""
    if folder := os.environ.get("SUBQUAD_DATA"):
        return Path(folder)
    import platformdirs

    return platformdirs.user_cache_path("subquad") / "data"


def set_folder(name: str) -> Path:
    """The folder of a set, there or not. Raises ``ValueError`` for an unknown name."""
    return data_root() / full_name(name)


def present_files(name: str) -> list[str]:
    """The files of a set that are there. Raises ``ValueError`` for a set that is unknown or not at the data root."""
    folder = set_folder(name)
    present = [str(folder / file["name"]) for file in data_sets()[full_name(name)]["files"] if (folder / file["name"]).exists()]
    if not present:
        raise ValueError(
            f"the data set {name!r} is not in {folder}: fetch it with subquad data fetch {name}, or name the folder of your data sets in "
            "SUBQUAD_DATA"
        )
    return present


def located(path: str) -> list[str]:
    """What a path names: ``NAME:`` the files of a set, ``NAME:within`` a file, folder or glob in it, all else itself.

    Raises ``ValueError`` for a set that is unknown or not at the data root.
    """
    name, colon, within = path.partition(":")
    known = name in data_sets() or any(one.endswith(f"/{name}") for one in data_sets())
    if not colon or len(name) < 2 or os.path.lexists(path) or (within and not known):
        return [path]
    present = present_files(name)
    return [str(set_folder(name) / within)] if within else present


def fetch(name: str) -> Path:
    """Downloads the files of a set that are missing or damaged, checks all, and returns the folder.

    A file appears whole and checked or not at all. A second call goes on with what is missing, and inside of a file that is pinned, where
    the server can. ``RunError`` says what could not be reached, what has another hash, and what has no address of its own.
    """
    folder = set_folder(name)
    chosen = data_sets()[full_name(name)]
    missing = [file for file in chosen["files"] if not is_whole(folder, file)]
    for file in missing:
        if "url" in file:
            _download(folder, file)
    by_hand = [file["name"] for file in missing if "url" not in file]
    if by_hand:
        raise RunError(
            f"{_some(by_hand)} of {name!r} cannot be downloaded as they are: make them from {chosen['source']} and put them into {folder}"
        )
    return folder


def is_whole(folder: Path, file: dict[str, Any]) -> bool:
    """Whether a file is there, with the hash that the table gives; one that is not pinned only has to be there."""
    path = folder / str(file["name"])
    if not path.exists() or path.is_dir():
        return path.is_dir()
    kind, expected = _hash(file)
    if not expected or _digest(path, kind) == expected:
        return True
    return bool("original" in file and _unpacked_digest(path) == file["original"]["sha256"])


def _download(folder: Path, file: dict[str, Any]) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    target = folder / file["name"]
    packed = "original" in file
    kind, expected = _hash(file["original"] if packed else file)
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target.with_name(f".{target.name}.tmp")) as place:
        source = pooch.create(
            path=place,
            base_url="",
            registry={target.name: f"{kind}:{expected}" if expected else None},
            urls={target.name: file["url"]},
            retry_if_failed=RETRIES,
        )
        try:
            fetched = Path(source.fetch(target.name, downloader=_Download(target.with_name(f".{target.name}.part"), bool(expected))))
        except requests.RequestException as error:
            raise RunError(
                f"could not reach {file['url']} ({_short(error)}): run the command again when the address answers, "
                f"or get the file elsewhere and put it at {target}"
            ) from None
        except ValueError:
            raise RunError(
                f"{file['url']} gave another file than the one with {kind} {expected}: nothing was kept; get that file elsewhere and "
                f"put it at {target}"
            ) from None
        if packed:
            write_atomic(target, lzma.compress(fetched.read_bytes()))
        else:
            os.replace(fetched, target)


class _Download:
    """A downloader for pooch: what arrives goes into the file ``part``, which stays when the connection breaks.

    The next call goes on from its end if it ``resumes``, which needs a hash in the end: the file may have become another one.
    """

    def __init__(self, part: Path, resumes: bool) -> None:
        self.part, self.resumes = part, resumes

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests

        done = self.part.stat().st_size if self.resumes and self.part.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response, WorkProgress("bytes") as progress:
            if response.status_code != requests.codes.range_not_satisfiable or not done:  # else there is no more than what has arrived
                response.raise_for_status()
                done = done if response.status_code == requests.codes.partial_content else 0
                total = done + int(response.headers.get("Content-Length", 0))
                with open(self.part, "ab" if done else "wb", opener=no_link) as file:
                    for piece in response.iter_content(_PIECE):
                        file.write(piece)
                        done += len(piece)
                        progress(done, max(done, total))
                if done < total:
                    raise requests.ConnectionError(f"{total - done} bytes are missing")
        os.replace(self.part, output_file)


def _hash(file: dict[str, Any]) -> tuple[str, str | None]:
    return ("md5", file["md5"]) if "md5" in file else ("sha256", file.get("sha256"))


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _unpacked_digest(path: Path) -> str:
    try:
        with lzma.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (lzma.LZMAError, EOFError):
        return ""


def _some(names: Iterable[str]) -> str:
    first, *rest = names
    return f"{first} and {len(rest)} more" if rest else first


def _short(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"status {response.status_code}" if response is not None else type(error).__name__
