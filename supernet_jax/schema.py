"""Types that dataclasses declare, held to: reading JSON as them, checking values against them."""

import dataclasses
import json
import math
import types
import typing
from typing import Any

from supernet_jax.errors import UserError

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
