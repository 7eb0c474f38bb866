"""JSON and YAML that anybody may have written, parsed within limits: a small file takes little time and memory, whatever is in it.

All limits on what a file may ask for are here. They are far above what any model or experiment needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

MAX_JSON_BYTES = 64 << 20  # the tokenizer.json of the largest vocabularies, of a quarter of a million tokens, has 35 MB
MAX_YAML_BYTES = 4 << 20  # PyYAML reads about 100 kB a second
MAX_DEPTH = 64  # of mappings and lists in each other; Python's own recursion, in what reads them later, ends at a few hundred
MAX_VALUES = 200_000  # of a YAML file with every alias written out: each may stand for all before it, so that few lines double 2 ** n times
MAX_TOKENS = 1 << 22  # ids of a tokenizer: a table has a place for each; the largest in use has about a million tokens
MAX_SIZE = 1 << 40  # a size in a config, such as a width or a context: no machine holds a vector of so many numbers
LARGEST = 600  # characters of a message


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ``ValueError`` in words for one that is not JSON, too large, or nested too deep."""
    _check_bytes(len(text), MAX_JSON_BYTES)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_depth(value)
    return value


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2 booleans, ``true`` and ``false`` alone: in PyYAML's 1.1, ``yes``, ``no``, ``on`` and ``off`` are booleans too."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = YamlLoader) -> Any:
    """The value of a YAML text. Raises ``ValueError`` in words for one that is not YAML, too large with its aliases written out, or nested
    too deep, as one that holds itself is."""
    _check_bytes(len(text), MAX_YAML_BYTES)
    try:
        reader = loader(text)  # which looks for control characters already
        try:
            node = reader.get_single_node()
            if node is None:
                return None
            _check_nodes(node)
            return reader.construct_document(node)
        finally:
            reader.dispose()
    except RecursionError:
        raise ValueError(_too_deep()) from None
    except yaml.YAMLError as error:
        raise ValueError(shortened(str(error))) from None


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """The text of a small file. Raises ``OSError``, and ``ValueError`` for a file over the limit or one that is not UTF-8."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    _check_bytes(len(content), limit)
    return content.decode("utf-8")


def shortened(text: str, limit: int = LARGEST) -> str:
    """One line of at most ``limit`` characters, for a message."""
    line = " ".join(text[: 2 * limit].split())
    return line if len(line) <= limit and len(text) <= 2 * limit else f"{line[: limit - 4]} ..."


def check_sizes(values: Any, tensors: int, layers: Iterable[str], largest: int = MAX_SIZE) -> None:
    """Checks the numbers of a config before anything is built by them.

    ``layers`` are the keys that count layers: one cannot be more than the ``tensors`` of the weights, as each layer has at least one.
    Raises ``ValueError`` for such a number, for one above ``largest``, and for one that is not finite.
    """
    counts = frozenset(layers)
    stack: list[tuple[str, Any]] = [("", values)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend((f"{name}.{key}" if name else str(key), inner) for key, inner in value.items())
        elif isinstance(value, list | tuple):
            stack.extend((f"{name}.{index}", inner) for index, inner in enumerate(value))
        elif isinstance(value, int | float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, expected a finite number")
        elif isinstance(value, int | float) and name.rpartition(".")[2] in counts and value > tensors:
            raise ValueError(f"{name} is {value}, but the weights have only {tensors} tensors")
        elif isinstance(value, int | float) and abs(value) > largest:
            raise ValueError(f"{name} is {shortened(str(value), 40)}, expected a number up to {largest}")


def _check_bytes(count: int, limit: int) -> None:
    if count > limit:
        raise ValueError(f"it is larger than {limit >> 20} MiB")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner for outer in level if isinstance(outer, dict | list) for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(_too_deep())


def _check_nodes(root: yaml.Node) -> None:
    """Counts the values below a node, each alias as often as it stands for them, without visiting a node twice."""
    sizes: dict[int, tuple[int, int]] = {}  # of the nodes by their ids: values, and how deep they nest
    stack = [(root, False)]
    open_nodes: set[int] = set()
    while stack:
        node, seen = stack.pop()
        if id(node) in sizes:
            continue
        inner = _inside(node)
        if not seen:
            if id(node) in open_nodes:
                raise ValueError("it holds an alias of what the alias stands in")
            open_nodes.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in inner if id(child) not in sizes)
            continue
        open_nodes.discard(id(node))
        below = [sizes[id(child)] for child in inner]
        size, depth = 1 + sum(count for count, _ in below), 1 + max((deep for _, deep in below), default=0)
        if size > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values with its aliases written out")
        if depth > MAX_DEPTH:
            raise ValueError(_too_deep())
        sizes[id(node)] = size, depth


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _too_deep() -> str:
    return f"it nests deeper than {MAX_DEPTH} levels"
