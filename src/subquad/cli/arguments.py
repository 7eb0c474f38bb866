"""What the verbs share in reading a command: a parser whose errors are one sentence, kinds of options, ``--set`` values."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml
from tyro.constructors import PrimitiveConstructorSpec

T = TypeVar("T")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def parse_arguments(request: type[T], verb: str, about: str, arguments: Sequence[str]) -> T:
    """Reads a verb's arguments into ``request``, a dataclass; ``about`` heads its ``--help``.

    Raises ``ValueError`` with one sentence where tyro would print a box, ``SystemExit(0)`` after ``--help``.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(request, args=arguments, prog=f"subquad {verb}", description=about, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as left:
        if left.code in (0, None):
            raise
    raise ValueError(f"{_sentence(box.getvalue())} (see subquad {verb} --help)")


def option(text: str, metavar: str | None = None) -> Any:
    """An option's help, without the "(default: ...)" that tyro appends: the text says it where it matters."""
    return tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint="")


def _optional(kind: Callable[[str], Any], metavar: str, expected: str) -> PrimitiveConstructorSpec[Any]:
    """One value that may be left out; spelled out because tyro reads the word "None" as None and words errors as type names."""

    def read(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"expected {expected}, got {words[0]!r}") from None

    return PrimitiveConstructorSpec(
        nargs=1, metavar=metavar, instance_from_str=read, is_instance=lambda value: True, str_from_instance=lambda value: [str(value)]
    )


WHOLE = _optional(int, "N", "a whole number")
NUMBER = _optional(float, "X", "a number")
TEXT = _optional(str, "TEXT", "a text")


def given(request: object, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named options that were given; the rest keep the defaults of the function that they are for."""
    options = {name: getattr(request, name) for name in names}
    return {name: value for name, value in options.items() if value is not None}


def input_path(name: str) -> Path:
    """A file to read. Raises ``ValueError`` where there is none, before anything slow has begun."""
    path = Path(name)
    if path.is_dir() or not path.exists():
        raise ValueError(f"expected a file or - for stdin, {'got the folder' if path.is_dir() else 'there is no'} {name!r}")
    return path


def run_folder(name: str) -> Path:
    """A run folder. Raises ``ValueError`` where there is none."""
    path = Path(name)
    if not path.is_dir():
        raise ValueError(f"expected a run folder, what --out of subquad train named, but there is no folder {name!r}")
    return path


def run_or_repository(name: str) -> str | Path:
    """A run folder, or what can be a Hugging Face repo id, "org/name". Raises ``ValueError`` for anything else."""
    path = Path(name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.parent.exists():
        return name
    return run_folder(name)


class _Values(yaml.SafeLoader):
    """YAML 1.2 numbers: in PyYAML's 1.1, ``1e-3`` is a text."""


_Values.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """``["optim.lr=1e-3", "optim.betas=[0.9, 0.98]"]`` as a mapping of dotted names to values, each read as YAML.

    Raises ``ValueError`` for a setting without a name or ``=``, a name given twice, or a value that is no YAML.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not name.strip() or not equals:
            raise ValueError(f"--set expects key=value, such as optim.lr=1e-3, got {setting!r}")
        if name.strip() in values:
            raise ValueError(f"--set {name.strip()} is given twice: keep one")
        try:
            values[name.strip()] = yaml.load(text, _Values)
        except yaml.YAMLError:
            raise ValueError(f"--set {name.strip()} expects a YAML value (a number, a text, a [list]), got {text!r}") from None
    return values


def _sentence(box: str) -> str:
    """The words of tyro's error box, which are title, message, and perhaps suggestions, each followed by a rule; the frame may be ASCII."""
    sections: list[list[str]] = [[]]
    for line in _COLOURS.sub("", box).splitlines():
        text = line.strip(" │|")
        if not text.strip("─-╭╮╰╯+ "):
            sections.append([])
        elif text.startswith("╭"):
            sections = [[text], []]
        else:
            sections[-1].append(text)
    _, message, *others = [section for section in sections if section] + [[]]
    sentence = " ".join(message).removesuffix(" (required)").rstrip(".") or " ".join(box.split())
    near = [line.split()[0].rstrip(",") for line in (others or [[]])[0] if line.startswith("--")]
    return f"{sentence}: did you mean {near[0]}?" if near and others[0][0].startswith("Perhaps") else sentence
