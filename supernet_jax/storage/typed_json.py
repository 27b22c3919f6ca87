"""Dataclasses as JSON and back, and values held to the types that dataclasses declare.

There is one dialect. What a dataclass declares says how a value is read: numbers, text, lists as
tuples, objects as dataclasses. Where it declares `Any`, an object names its dataclass in its field
`type`, as `to_json` writes it. A field that is missing takes its default, so that files which are
older than the field can be read.
"""

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from supernet_jax.errors import UserError, near

WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    type(None): "None",
}


def parse(kind: Any, value: Any, where: str, *, named: Mapping[str, type] | None = None) -> Any:
    """Reads a JSON value as a type.

    Args:
        kind: a dataclass, int, float, str, bool, `X | None`, `tuple[X, ...]` or `dict[str, X]`;
            `dict` or `object` for JSON values as they are; `Any` for numbers and text, tuples of
            such, and dataclasses that the value itself names.
        value: what `json.loads` gave.
        where: what messages call it.
        named: dataclasses that a value may name, usually the library's and those of the user's
            file. Their fields are read as `Any`: whether they fit is up to their own checks.

    Raises:
        UserError: it is something else; an unknown name; an unknown field, or one that has no
            default and is missing. The message names the place.
    """
    if kind is Any:
        return _named(value, named or {}, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        [inner] = [one for one in arguments if one is not type(None)]
        return None if value is None else parse(inner, value, where, named=named)
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} is {_shown(value)}, but must be a list")
        return tuple(
            parse(arguments[0], one, f"{where}[{i}]", named=named) for i, one in enumerate(value)
        )
    if origin is dict:
        entries = parse(dict, value, where).items()
        return {k: parse(arguments[1], one, f"{where}.{k}", named=named) for k, one in entries}
    if dataclasses.is_dataclass(kind):
        return _made(kind, parse(dict, value, where), where, named, typing.get_type_hints(kind))
    if not fits(kind, value):
        raise UserError(f"{where} is {_shown(value)}, but must be {spelt(kind)}")
    return float(value) if kind is float else value


def _named(value: Any, named: Mapping[str, type], where: str) -> Any:
    if isinstance(value, list):
        return tuple(_named(one, named, f"{where}[{i}]") for i, one in enumerate(value))
    if not isinstance(value, dict):
        return value
    name = str(value.get("type"))
    if name not in named:
        raise UserError(
            f"{where} is a {name!r}, which is not part of the library; if it is yours, pass the "
            f"file that defines it with --config FILE{near(name, named)}"
        )
    fields = {key: one for key, one in value.items() if key != "type"}
    return _made(named[name], fields, where, named, {})


def _made(
    kind: Any,
    fields: Mapping[str, Any],
    where: str,
    named: Mapping[str, type] | None,
    hints: Mapping[str, Any],
) -> Any:
    """A dataclass of JSON values; fields without a hint are read as `Any`."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [key for key in fields if key not in known]
    missing = [key for key in known if key not in fields]
    if not unknown:  # beside an unknown field, one with a default was perhaps renamed
        missing = [key for key in missing if not _has_default(known[key])]
    if unknown or missing:
        parts = [f"unknown {key}{near(key, known).replace('; ', ', ')}" for key in unknown]
        parts += [f"missing {', '.join(missing)}"] * bool(missing)
        said = where if hints else f"{where} ({kind.__name__})"
        raise UserError(
            f"{said} has fields {' and '.join(parts)}; it must have {', '.join(known)}: was it "
            "edited?"
        )
    values = {
        key: parse(hints.get(key, Any), one, f"{where}.{key}", named=named)
        for key, one in fields.items()
    }
    try:
        return kind(**values)
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
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
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
    return WORDS.get(hint, f"a {hint.__name__}")


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
