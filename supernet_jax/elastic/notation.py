"""Archs as people write them, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.elastic import choices
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

    A list of decisions that count up to a depth alone (`Choice.depth`) may also be as long as that
    depth; those that it leaves out take their first option. A decision of one option may be left
    out.

    Raises:
        UserError: an unknown or missing decision, a list of the wrong length, a value that the
            space does not offer; the message names the decision and what is allowed.
    """
    short: list[_Short] = []
    arch = _read(menu, notation, "", short)
    for where, menus, length in short:
        path, _ = menus[length].depth or ((), 0)
        depth = choices.get(menu, path).values[int(choices.get(arch, path))]
        wanted = sum(m.depth is None or depth > m.depth[1] for m in menus)
        if length != wanted:
            raise UserError(
                f"{where} has {length} entries, but {'.'.join(map(str, path))} is {depth}; it must "
                f"have {wanted} entries, or {len(menus)}, of which the first {wanted} count"
            )
    return arch


class _Short(NamedTuple):
    """A list that leaves decisions out: where it stands, their menu, and its length."""

    where: str
    menus: list[Choice]
    length: int


def _read(menu: Menu, notation: Any, where: str, short: list[_Short]) -> Arch:
    place = where or "the arch"
    if isinstance(menu, Choice):
        if isinstance(notation, bool) or notation not in menu.values:
            allowed = ", ".join(map(str, menu.values))
            raise UserError(f"{place} is {notation!r}, but this space allows {allowed}")
        return np.int32(menu.values.index(notation))
    if isinstance(menu, Mapping):
        return _read_dict(menu, notation, where, place, short)
    given = notation
    if isinstance(notation, list | tuple) and _may_end(menu, len(notation)):
        short.append(_Short(place, list(menu), len(notation)))
        given = [*notation, *(entry.values[0] for entry in menu[len(notation) :])]
    if not isinstance(given, list | tuple) or len(given) != len(menu):
        what = "numbers" if all(isinstance(entry, Choice) for entry in menu) else "entries"
        raise UserError(f"{place} must be a list of {len(menu)} {what}; got {notation!r}")
    return type(menu)(
        _read(m, n, f"{where}[{i}]", short)
        for i, (m, n) in enumerate(zip(menu, given, strict=True))
    )


def _may_end(menu: Menu, length: int) -> bool:
    """Whether a list of decisions may end after so many, at some depth."""
    rest = menu[length:]
    return bool(rest) and all(isinstance(m, Choice) and m.depth is not None for m in rest)


def _read_dict(menu: Menu, notation: Any, where: str, place: str, short: list[_Short]) -> Arch:
    if not isinstance(notation, Mapping):
        raise UserError(f"{place} must be an object with {', '.join(menu)}; got {notation!r}")
    for key in notation:
        if key not in menu:
            raise UserError(
                f"{place} has no decision {key!r}, only {', '.join(menu)}{near(str(key), menu)}"
            )
    only = {k: m.values[0] for k, m in menu.items() if isinstance(m, Choice) and len(m) == 1}
    given = {**only, **notation}
    if missing := [key for key in menu if key not in given]:
        raise UserError(f"{place} lacks {', '.join(missing)}")
    return {k: _read(menu[k], given[k], f"{where}.{k}" if where else k, short) for k in menu}
