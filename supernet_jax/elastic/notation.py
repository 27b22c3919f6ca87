"""Archs as people write them, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from supernet_jax.elastic.choices import Arch, Choice, Menu, Values
from supernet_jax.errors import UserError, near


def to_notation(menu: Menu, arch: Arch) -> Values:
    """One arch as people and JSON write it: plain numbers in lists and dicts (host only).

    Keys come in the order of the menu.
    """
    if isinstance(menu, Choice):
        return menu.values[int(arch)]
    if isinstance(menu, Mapping):
        return {key: to_notation(menu[key], arch[key]) for key in menu}
    return [to_notation(m, a) for m, a in zip(menu, arch, strict=True)]


def options(menu: Menu) -> Any:
    """The menu with the list of its values in place of each choice, for JSON."""
    if isinstance(menu, Choice):
        return list(menu.values)
    if isinstance(menu, Mapping):
        return {key: options(menu[key]) for key in menu}
    return [options(entry) for entry in menu]


def from_notation(menu: Menu, notation: Any) -> Arch:
    """Reads one arch as `to_notation` writes it (host only).

    Raises:
        UserError: an unknown or missing decision, a list of the wrong length, a value that the
            space does not offer; the message names the decision and what is allowed.
    """
    return _read(menu, notation, where="")


def _read(menu: Menu, notation: Any, where: str) -> Arch:
    place = where or "the arch"
    if isinstance(menu, Choice):
        if isinstance(notation, bool) or notation not in menu.values:
            allowed = ", ".join(map(str, menu.values))
            raise UserError(f"{place} is {notation!r}, but this space allows {allowed}")
        return np.int32(menu.values.index(notation))
    if isinstance(menu, Mapping):
        return _read_dict(menu, notation, where, place)
    if not isinstance(notation, list | tuple) or len(notation) != len(menu):
        raise UserError(f"{place} must be a list of {len(menu)} numbers; got {notation!r}")
    return type(menu)(
        _read(m, n, f"{where}[{i}]") for i, (m, n) in enumerate(zip(menu, notation, strict=True))
    )


def _read_dict(menu: Menu, notation: Any, where: str, place: str) -> Arch:
    if not isinstance(notation, Mapping):
        raise UserError(f"{place} must be an object with {', '.join(menu)}; got {notation!r}")
    for key in notation:
        if key not in menu:
            raise UserError(
                f"{place} has no decision {key!r}, only {', '.join(menu)}{near(str(key), menu)}"
            )
    missing = [key for key in menu if key not in notation]
    if missing:
        raise UserError(f"{place} lacks {', '.join(missing)}")
    return {k: _read(menu[k], notation[k], f"{where}.{k}" if where else k) for k in menu}
