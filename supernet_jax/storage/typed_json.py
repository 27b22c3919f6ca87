"""Types that dataclasses declare, held to: reading JSON as them, checking values against them."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from supernet_jax.errors import UserError, near

NAMES = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    dict: "an object",
}


def parse(kind: Any, value: Any, where: str) -> Any:
    """Reads a JSON value as a type, strictly; dataclasses by their fields.

    Args:
        kind: a dataclass, int, float, str, bool, dict, Any, `X | None`, `tuple[X, ...]` or
            `dict[str, X]`.
        value: what `json.loads` gave.
        where: what messages call it.

    Raises:
        UserError: it is something else; the message names the place.
    """
    if kind is Any:
        return value
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        return None if value is None else parse(inner[0], value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} is {_shown(value)}, but must be a list")
        item = typing.get_args(kind)[0]
        return tuple(parse(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if typing.get_origin(kind) is dict:
        item = typing.get_args(kind)[1]
        return {k: parse(item, v, f"{where}.{k}") for k, v in parse(dict, value, where).items()}
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, value, where)
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{where} is {_shown(value)}, but must be {NAMES.get(kind, kind)}")
    return value


def _parse_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {_shown(value)}, but must be an object")
    known = [field.name for field in dataclasses.fields(kind)]
    unknown, missing = [k for k in value if k not in known], [k for k in known if k not in value]
    if unknown or missing:
        parts = [f"unknown {', '.join(unknown)}"] * bool(unknown)
        parts += [f"missing {', '.join(missing)}"] * bool(missing)
        raise UserError(
            f"{where} has fields {' and '.join(parts)}; it must have {', '.join(known)}"
        )
    hints = typing.get_type_hints(kind)
    fields = {name: parse(hints[name], value[name], f"{where}.{name}") for name in known}
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:  # checks of its own
        raise UserError(f"{where} is not a {kind.__name__}: {error}") from error


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def fits(hint: Any, value: Any) -> bool:
    """Whether a Python value is of a declared type; numbers must be finite, True is none.

    Args:
        hint: a class, Any, `X | None`, `Literal[...]` or `tuple[X, ...]`.
        value: anything.
    """
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return value in arguments
    if isinstance(hint, types.UnionType):
        return any(fits(one, value) for one in arguments)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(arguments[0], item) for item in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint is int:
        return type(value) is int
    return hint is Any or isinstance(value, hint)


def spelt(hint: Any) -> str:
    """A declared type in words."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, arguments))
    if isinstance(hint, types.UnionType):
        return " or ".join(map(spelt, arguments))
    if typing.get_origin(hint) is tuple:
        return f"a tuple, of each {spelt(arguments[0])}"
    words = {int: "a whole number", float: "a finite number", str: "text", type(None): "None"}
    return words.get(hint, f"a {hint.__name__}")


def to_json(config: Any) -> Any:
    """Dataclasses as JSON values; each says its type.

    Raises:
        UserError: a value in it is no dataclass, finite number, text, list or tuple.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    if isinstance(config, list | tuple):
        return [to_json(value) for value in config]
    if config is not None and not isinstance(config, bool | int | float | str):
        raise UserError(
            f"a {type(config).__name__} in the configuration cannot be written as JSON; make it a "
            "dataclass (@dataclasses.dataclass(frozen=True)) of numbers, text and tuples"
        )
    if isinstance(config, float) and not math.isfinite(config):
        raise UserError(
            f"a number in the configuration is {config}, which JSON does not have; give a finite "
            "one, or None"
        )
    return config


def completed(value: Any, types: Mapping[str, type]) -> Any:
    """Fills in fields that dataclasses have gained since `to_json` wrote this, at their defaults.

    A field that is added later must mean by its default what was done before it existed.
    Types that are not known, and fields without a default, are left alone.
    """
    if isinstance(value, list):
        return [completed(item, types) for item in value]
    if not isinstance(value, dict):
        return value
    known = types.get(str(value.get("type")))
    fields = dataclasses.fields(known) if dataclasses.is_dataclass(known) else ()
    new = {f.name: to_json(_default(f)) for f in fields if f.name not in value and _has_default(f)}
    return {**{key: completed(item, types) for key, item in value.items()}, **new}


def _has_default(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _default(field: dataclasses.Field) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def from_json(value: Any, types: Mapping[str, type], *, where: str = "config") -> Any:
    """Rebuilds what `to_json` wrote; fields that have come since then take their defaults.

    Args:
        value: JSON values.
        types: dataclasses by name, usually the library's and those of the user's file.
        where: what messages call it.

    Raises:
        UserError: unknown type, unknown field, or one that has no default and is missing; each is
            named.
    """
    if isinstance(value, list):
        return tuple(from_json(v, types, where=f"{where}[{i}]") for i, v in enumerate(value))
    if not isinstance(value, dict):
        return value
    name = str(value.get("type"))
    if name not in types:
        raise UserError(
            f"{where} is a {name!r}, which is not part of the library; if it is yours, pass the "
            f"file that defines it with --config FILE{near(name, types)}"
        )
    kind = types[name]
    known = {f.name: f for f in dataclasses.fields(kind)}
    fields = {k: from_json(v, types, where=f"{where}.{k}") for k, v in value.items() if k != "type"}
    unknown = [key for key in fields if key not in known]
    absent = [key for key in known if key not in fields]
    # a field with a default may be younger than the file; beside an unknown one it was renamed
    missing = absent if unknown else [key for key in absent if not _has_default(known[key])]
    if unknown or missing:
        parts = [f"unknown {k}{near(k, known).replace('; ', ', ')}" for k in unknown]
        parts += [f"missing {', '.join(missing)}"] * bool(missing)
        raise UserError(f"{where} ({name}) has fields {' and '.join(parts)}; was it edited?")
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:  # checks of the user's own class
        raise UserError(f"{where} is not a {name}: {error}") from error
