"""Configs: small frozen pydantic models, parsed from mappings with errors that suggest the right key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]  # one is a list of one


class Config(BaseModel):
    """Base of every config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the nearest known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def parse(kind: type[C], values: Mapping[str, Any]) -> C:
    """Builds a config from a mapping.

    Raises ``ValueError`` with one sentence that names the key, what was expected and what was given.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(_sentence(kind, error)) from None


def override(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``values`` with dotted or nested names replaced: ``{"stages.0.depth": 4}``, ``{"optim": {"lr": 1e-3}}``.

    Every name on the way must exist (a list takes an index), so a misspelt key is an error that suggests the right one. A mapping by
    numbers takes new ones.
    """
    changed: Any = _copy(values)
    for name, value in changes.items():
        place, parts = changed, name.split(".")
        for depth, part in enumerate(parts):
            key = _key(place, part, ".".join(parts[:depth]))
            if depth == len(parts) - 1:
                place[key] = _merged(place.get(key) if isinstance(place, dict) else place[key], value)
            else:
                place = place[key]
    return dict(changed)


def _merged(old: Any, new: Any) -> Any:
    """A mapping changes the fields that it names, unless it names another kind of thing; anything else takes the old value's place."""
    if isinstance(new, Mapping) and _numbered(old) and _numbered(new):
        return {**old, **{str(key): _copy(value) for key, value in new.items()}}
    if isinstance(old, dict) and isinstance(new, Mapping) and new.get("kind", old.get("kind")) == old.get("kind"):
        return override(old, new)
    return _copy(new)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list | tuple) else value


def _numbered(value: Any) -> bool:
    """Whether a mapping is empty or by numbers alone."""
    return isinstance(value, Mapping) and all(str(key).isdigit() for key in value)


def _key(place: Any, part: str, where: str) -> str | int:
    inside = f" in {where!r}" if where else ""
    if isinstance(place, dict):
        if part.isdigit() and _numbered(place):
            return part
        if part not in place:
            raise ValueError(f"unknown key {part!r}{inside}: {suggest(part, place)}")
        return part
    if isinstance(place, list):
        if not part.isdigit() or int(part) >= len(place):
            raise ValueError(f"{part!r} is no index{inside}: expected 0 to {len(place) - 1}")
        return int(part)
    raise ValueError(f"{where!r} holds {place!r}, so it has no key {part!r}: set {where!r} itself")


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    # An unknown key first: where it is the misspelling of a key that is missing, it is the one to speak of.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parent = _model_at(kind, first["loc"][:-1])
        return f"unknown key {where!r}: {suggest(str(first['loc'][-1]), parent.model_fields)}"
    if first["type"] == "missing":
        return f"{where!r} is missing: {kind.__name__} needs it"
    message = first["msg"].removeprefix("Value error, ")
    if where and message.startswith("'"):  # a config inside was parsed by itself: one name for the whole way
        return f"'{where}.{message[1:]}"
    if not where or isinstance(first["input"], Mapping):  # a whole mapping says nothing that the message does not
        return f"{where}: {message}" if where else message
    return f"{where!r}: {message}, got {first['input']!r}"


def _model_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    for part in path:
        field = kind.model_fields.get(str(part))
        nested = _models_in(field.annotation) if field else []
        kind = nested[0] if len(nested) == 1 else kind
    return kind


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The config classes that an annotation such as ``tuple[StackConfig, ...]`` or ``ImageShape | None`` names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
