"""What the verbs share in reading a command: a parser whose errors are one sentence, kinds of values, and arguments of several verbs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

T = TypeVar("T")

LIKE_AN_OPTION = re.compile(r"--[a-z][a-z-]*(=.*)?", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """The arguments of one verb; a wrong command is a ``ValueError`` of one sentence.

    ``usage`` is what follows the verb, ``about`` heads ``--help``. ``hints`` answers options that other programs have:
    ``{"--lr": "use --set optim.lr=1e-3"}``.
    """

    def __init__(self, verb: str, usage: str, about: str, hints: Mapping[str, str] | None = None) -> None:
        layout = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
        prog = f"subquad {verb}"
        super().__init__(prog, f"{prog} {usage}", about, formatter_class=layout, allow_abbrev=False)
        self.hints = hints or {}

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads the words after the verb. Raises ``ValueError`` for a wrong one, ``SystemExit(0)`` after ``--help``."""
        request, unknown = self.parse_known_intermixed_args(self._attach_values(arguments))
        for word in sorted(unknown, key=lambda word: not word.startswith("-")):  # an option explains the words after it
            self.error(
                self._unknown(word.partition("=")[0]) if word.startswith("-") else f"unexpected argument {word!r}, expected {self.usage}"
            )
        return request

    def error(self, message: str) -> NoReturn:
        """Raises the message as a ``ValueError``."""
        raise ValueError(f"{message} (see {self.prog} --help)")

    def print_help(self, file: IO[str] | None = None) -> None:  # type: ignore[override]
        """Prints the help and waits for it: argparse's own would not notice a full disk or a reader who left."""
        print(self.format_help(), end="", file=file, flush=True)

    def _attach_values(self, arguments: Sequence[str]) -> list[str]:
        """``--stop -x`` as ``--stop=-x``: a value may begin with a dash unless it looks like an option."""
        options, words = self._option_string_actions, list[str]()
        for word in arguments:
            takes_value = bool(words) and words[-1] in options and options[words[-1]].nargs is None
            if takes_value and word.startswith("-") and word not in ("--", *options) and not LIKE_AN_OPTION.fullmatch(word):
                words[-1] += f"={word}"
            else:
                words.append(word)
        return words

    def _unknown(self, option: str) -> str:
        from subquad.config import suggest  # pydantic takes a tenth of a second, which --help need not pay

        return f"unknown option {option}: {self.hints.get(option) or suggest(option, self._option_string_actions)}"


def whole_number(text: str) -> int:
    """The type of an option."""
    return _converted(int, text, "a whole number")


def number(text: str) -> float:
    """The type of an option."""
    return _converted(float, text, "a number")


def column(text: str) -> str | int:
    """The type of an option: the name of a table's column, or its number."""
    return int(text) if text.isdigit() else text


def _converted(kind: Callable[[str], T], text: str, expected: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None


def add_run(parser: Parser, what: str = "a run folder") -> None:
    """The model that a verb uses; ``run_or_repository`` reads it."""
    parser.add_argument("run", nargs="?", metavar="RUN", help=f"{what}, or a Hugging Face repo id")


def add_texts(parser: Parser, files: str) -> None:
    """Texts, from tables and files, for ``subquad.api.read_texts`` and the model."""
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"{files}; - is stdin")
    group = parser.add_argument_group("how texts are read")
    group.add_argument("--text", type=column, metavar="COLUMN", help="column of the text: a name, or a number from 0 if there is no header")
    group.add_argument("--table", metavar="KIND", help="read every file, and stdin, as a table of this kind: tsv, csv, jsonl or parquet")
    group.add_argument("--truncate", action="store_true", help="read only the beginning of a text that is longer than the context")
    add_skip_bad(group, "texts that the model cannot read (longer than the context, or empty)")


def add_skip_bad(group: argparse._ActionsContainer, what: str) -> None:
    """The option to go on without some of the inputs."""
    group.add_argument("--skip-bad", action="store_true", help=f"leave out {what}, and say which, in place of an error")


def add_device(parser: Parser) -> None:
    """The device of a verb that runs a model."""
    parser.add_argument("--device", default="auto", help="auto (the default: a GPU if there is one), cpu, cuda or cuda:1")


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """The option of a verb that shows how far it is."""
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def given(request: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named options that were given; the others keep the defaults of the function that they are for."""
    return {name: value for name in names if (value := getattr(request, name)) is not None}


def input_path(name: str) -> Path:
    """A file to read. Raises ``ValueError`` if there is none, before anything slow has begun."""
    path = Path(name)
    if path.is_dir() or not path.exists():
        raise ValueError(f"expected a file or - for stdin, {'got the folder' if path.is_dir() else 'but there is no file'} {name!r}")
    return path


def run_folder(name: str | None) -> Path:
    """A run folder. Raises ``ValueError`` if there is none."""
    if name is None:
        raise ValueError("RUN is missing: name a run folder, the --out of subquad train")
    path = Path(name)
    if not path.is_dir():
        raise ValueError(f"expected a run folder, the --out of subquad train, but there is no folder {name!r}")
    return path


def run_or_repository(name: str | None) -> str | Path:
    """A run folder, or what can be a Hugging Face repo id, "org/name". Raises ``ValueError`` for anything else."""
    if name is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).parent.exists():
        return name
    return run_folder(name)
