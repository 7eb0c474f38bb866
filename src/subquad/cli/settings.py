"""The values of ``--set key=value``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from subquad.parsing import YamlLoader, parse_yaml, shortened


class _Values(YamlLoader):
    """YAML 1.2 numbers too: in PyYAML's 1.1, ``1e-3`` is a text."""


_Values.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """``["optim.lr=1e-3", "optim.betas=[0.9, 0.98]"]`` as a mapping of dotted names to values, each read as YAML.

    Raises ``ValueError`` for a setting without a name or ``=``, a name given twice, or a value that is not YAML.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not name or not equals:
            raise ValueError(f"--set expects key=value, such as optim.lr=1e-3, got {setting!r}")
        if name in values:
            raise ValueError(f"--set {name} is given twice: keep one")
        try:
            values[name] = parse_yaml(text, _Values)
        except ValueError:
            got = shortened(repr(text), 200)
            raise ValueError(f"--set {name} expects a YAML value (a number, a text, a [list]), got {got}") from None
    return values
