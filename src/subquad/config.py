"""Configs: small frozen pydantic models, parsed from mappings with errors that suggest the right key.

A field whose value is one of several kinds (a mixer, a model, an objective) is annotated with ``OneOf`` a table: its mapping becomes the
config that ``kind`` names there, so one line in the table is all that a new kind takes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from subquad.parsing import MAX_YAML_BYTES, parse_yaml, read_text, shortened

Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]  # one is a list of one


class Config(BaseModel):
    """Base of every config: frozen; an unknown key is an error, and so is a number that is not finite.

    ``RENAMED`` maps keys of earlier versions to today's, so that their files still load.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    RENAMED: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _rename_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not cls.RENAMED.keys() & values.keys():
            return values
        return {cls.RENAMED.get(key, key): value for key, value in values.items()}


C = TypeVar("C", bound=Config)

_SHOWN, _SENTENCE = 200, 2000  # characters of a value in a message, and of a whole one, which may list what is known


class OneOf:
    """Annotation of a field that holds one of the configs of a table: ``Annotated[MixerConfig, OneOf(MIXERS, "mixer", "attention")]``.

    ``noun`` is what errors call it, ``default`` the kind of a mapping that names none, ``presets`` are configs that go by name, and
    ``renamed`` maps kinds of earlier versions to today's, so that their files still load. The table is looked up when a value is
    validated, so what is added to it later counts too.
    """

    def __init__(
        self,
        table: Mapping[str, type[Config]],
        noun: str,
        default: str | None = None,
        presets: Mapping[str, Config] | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.table, self.noun, self.default, self.presets, self.renamed = table, noun, default, presets or {}, renamed or {}

    def kind_of(self, value: Mapping[str, Any]) -> type[Config]:
        """The config class that a mapping names. Raises ``ValueError`` for none and for one that is not in the table."""
        kind = self._with_new_kind(value).get("kind", self.default)
        if not isinstance(kind, str) or kind not in self.table:
            what = f"unknown {self.noun} {kind!r}" if kind is not None else f"{self.noun} needs a 'kind'"
            raise ValueError(f"{what}: {suggest(str(kind), self.table)}")
        return self.table[kind]

    def _with_new_kind(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = value.get("kind")
        return {**value, "kind": self.renamed[kind]} if isinstance(kind, str) and kind in self.renamed else value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A config passes; a mapping is validated as the kind that it names, errors keep their whole path; any config is written whole."""

        def validate(value: Any) -> Any:
            if isinstance(value, str) and self.presets:
                if value not in self.presets:
                    raise ValueError(f"unknown preset {value!r}: {suggest(value, self.presets)}")
                return self.presets[value]
            if isinstance(value, str):
                value = {"kind": value}
            if isinstance(value, Config) and not isinstance(value, source):
                self.kind_of({"kind": getattr(value, "kind", None)})  # names the kinds that fit
            if not isinstance(value, Mapping | source):
                raise ValueError(f"expected a mapping with the 'kind' of the {self.noun}")
            return self.kind_of(value).model_validate(self._with_new_kind(value)) if isinstance(value, Mapping) else value

        whole = core_schema.plain_serializer_function_ser_schema(
            lambda value, info: value.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults), info_arg=True
        )
        return core_schema.no_info_before_validator_function(validate, core_schema.is_instance_schema(source), serialization=whole)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Any of the kinds of the table, or a preset's name: what an editor completes in a YAML file."""
        kinds = [handler(kind.__pydantic_core_schema__) for kind in self.table.values()]
        return {"anyOf": [*kinds, {"enum": list(self.presets or self.table)}]}


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the nearest known name, or all of them."""
    names, name = list(known), shortened(name, _SHOWN)  # matching takes the product of the lengths
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping that a YAML file holds. Raises ``ValueError`` for a file that cannot be read or holds anything else."""
    try:
        values = parse_yaml(read_text(path, MAX_YAML_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        what = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise ValueError(f"{path} {what}, expected a mapping of keys to values")
    return values


def parse(kind: type[C], values: Mapping[str, Any]) -> C:
    """Builds a config from a mapping.

    Raises ``ValueError`` with one sentence that names the key, what was expected and what was given.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(shortened(_sentence(kind, values, error), _SENTENCE)) from None


def with_changes(config: C, changes: Mapping[str, Any]) -> C:
    """The config with fields replaced by dotted or nested name, validated again: ``with_changes(config, {"optim.lr": 1e-3})``.

    Raises ``ValueError`` like ``override`` and ``parse``.
    """
    return parse(type(config), override(config.model_dump(mode="json"), changes))


def override(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``values`` with dotted or nested names replaced: ``{"stages.0.depth": 4}``, ``{"optim": {"lr": 1e-3}}``.

    Every name on the way must exist (a list takes an index), so a misspelt key is an error that suggests the right one. A mapping by
    numbers takes new ones.
    """
    if not isinstance(changes, Mapping):
        raise ValueError(f"expected a mapping of keys to values, got {shortened(repr(changes), _SHOWN)}")
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
            raise ValueError(f"unknown key {part!r}{inside}: {suggest(part, place) if place else 'expected a number'}")
        return part
    if isinstance(place, list):
        if not part.isdigit() or int(part) >= len(place):
            raise ValueError(f"{part!r} is not an index{inside}: expected 0 to {len(place) - 1}")
        return int(part)
    raise ValueError(f"{where!r} is {shortened(repr(place), _SHOWN)}, expected a mapping with the key {part!r}: set {where!r} to one")


# Of pydantic, in the order in which they are replaced.
_MESSAGES = {
    r"Input should be a valid (dictionary|mapping)( or instance of \w+)?": "expected a mapping of settings",
    r"Input should be a valid (tuple|list|array)": "expected a list",
    r"Input should be a valid string": "expected a text",
    r"Input should be a valid (integer|boolean|number)": r"expected a valid \1",
    r"Input should be (greater|less)": r"expected a value \1",
    r"Input should be": "expected",
}


def _sentence(kind: type[BaseModel], values: Mapping[str, Any], error: ValidationError) -> str:
    # An unknown key first: where it is the misspelling of a key that is missing, it is the one to speak of.
    first = min(error.errors(), key=lambda line: line["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parent = _class_at(kind, values, first["loc"][:-1])
        return f"unknown key {where!r}: {suggest(str(first['loc'][-1]), parent.model_fields)}"
    if first["type"] == "missing":
        if isinstance(first["loc"][-1], int):
            return f"{where.rpartition('.')[0]!r} has too few values, got {shortened(repr(first['input']), _SHOWN)}: add one"
        needed = [name for name, field in _class_at(kind, values, first["loc"][:-1]).model_fields.items() if field.is_required()]
        return f"{where!r} is missing: expected {', '.join(needed)}"
    message = first["msg"].removeprefix("Value error, ")
    for words, ours in _MESSAGES.items():
        message = re.sub(words, ours, message)
    if (
        not where or isinstance(first["input"], Mapping) or (first["type"] == "value_error" and repr(first["input"]) in message)
    ):  # a whole mapping adds nothing either
        return f"{where}: {message}" if where else message
    return f"{where!r}: {message}, got {shortened(repr(first['input']), _SHOWN)}"


def _class_at(kind: type[BaseModel], values: Any, path: tuple[int | str, ...]) -> type[BaseModel]:
    """The config class whose fields are at a path into ``values``."""
    choices: list[OneOf | type[BaseModel]] = []
    for part in path:
        field = kind.model_fields.get(str(part))
        if field is not None:
            choices = [*(mark for mark in field.metadata if isinstance(mark, OneOf)), *_choices_in(field.annotation)]
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):  # a tag that pydantic adds to the path of a union
            values = values if isinstance(values, Mapping) else {}
        if isinstance(values, Mapping) and choices:
            tagged = [choice for choice in choices if not isinstance(choice, OneOf) and _kind(choice) == values.get("kind")]
            choice = (tagged or choices)[0]
            kind = choice.kind_of(values) if isinstance(choice, OneOf) else choice
    return kind


def _choices_in(annotation: Any) -> list[OneOf | type[BaseModel]]:
    """What an annotation such as ``tuple[StackConfig, ...]`` or ``dict[int, AnyMixerConfig]`` may hold; a table goes before its base."""
    if isinstance(annotation, OneOf) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return [annotation]
    inner = [choice for argument in get_args(annotation) for choice in _choices_in(argument)]
    return sorted(inner, key=lambda choice: not isinstance(choice, OneOf))


def _kind(config: type[BaseModel]) -> Any:
    """The default of a config class's ``kind``."""
    field = config.model_fields.get("kind")
    return None if field is None else field.default


def differences(first: Config, second: Config) -> list[str]:
    """Keys, as ``--set`` takes them, in which two configs differ."""
    values, others = flatten(first.model_dump(mode="json")), flatten(second.model_dump(mode="json"))
    return sorted(key for key in values.keys() | others.keys() if values.get(key) != others.get(key))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name, however they are nested."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
