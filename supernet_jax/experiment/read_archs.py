"""Archs from what a user gave: a name, JSON, a file, or values in Python; and random ones."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.notation import from_notation
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least, near
from supernet_jax.experiment.front import Entry
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded


def read_archs(space: Space, text: str) -> list[Arch]:
    """Reads archs from what a user gave: a name, JSON, or a file of JSON.

    Args:
        space: whose archs.
        text: `smallest`, `largest`, an arch in the notation of the space as JSON, or a path of a
            JSON file with one arch, a list of them, results that hold them under "arch", or the
            result of a search, whose front is taken.

    Raises:
        UserError: not readable as any of those; an arch that is not in the space.
    """
    if text in ("smallest", "largest"):
        pick = choices.smallest if text == "smallest" else choices.largest
        return [pick(space.menu)]
    if text.lstrip().startswith(("{", "[")):
        source, content = "the given JSON", text
    else:
        source, content = text, _read_text(text)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("front"), list):
        value = value["front"]
    items = value if isinstance(value, list) else [value]
    if not items:
        raise UserError(f"{source} holds no arch")
    archs = []
    for i, item in enumerate(items):
        notation = item["arch"] if isinstance(item, dict) and "arch" in item else item
        try:
            archs.append(from_notation(space.menu, notation))
        except UserError as error:
            place = f"{source}, arch {i}" if len(items) > 1 else source
            raise UserError(f"{place}: {error} (space {space.name})") from None
    return archs


def _read_text(path: str) -> str:
    file = expanded(path)
    try:
        return files.read_text(file, kind="JSON file")
    except UserError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        there = [other.name for other in files.found(file.parent, "*.json")]
        hint = near(file.name, ["smallest", "largest", *there])
        raise UserError(
            f"there is no file {path}; give a JSON file, an arch as JSON, `smallest` or `largest`"
            f"{hint}"
        ) from None


def sample(space: Space, n: int, *, seed: int = 0) -> list[Arch]:
    """Uniform random archs of a space.

    Args:
        space: whose archs.
        n: how many, at least 1; equal ones may be among them.
        seed: of the random numbers, at least 0.

    Returns:
        The archs, each a menu with an option index in the place of each decision.

    Raises:
        UserError: `n` or `seed` is out of range.
    """
    if not isinstance(space, Space):
        raise UserError(
            f"archs are sampled of a space, as run.space, but a {type(space).__name__} was given"
        )
    at_least("n", n, 1)
    at_least("--seed", seed, 0)
    return choices.unstack(choices.sample(space.menu, jax.random.key(seed), (n,)))


def archs_of(space: Space, given: Any) -> list[Arch]:
    """One or several archs, however they are given, as a list.

    Args:
        space: whose archs.
        given: an arch (option indices, as `sample` gives them; also several along a leading axis),
            its notation, a record or an entry of a front, a sequence of any of these, or text as
            `read_archs` takes it.

    Raises:
        UserError: it is none of those, or of another space.
    """
    if isinstance(given, str | os.PathLike):
        return read_archs(space, os.fspath(given))
    if isinstance(given, Entry):
        return [given.arch]
    if not isinstance(given, Mapping):
        if not isinstance(given, Sequence) or not given:
            raise UserError(f"{given!r} is no arch, and no sequence of archs")
        return [arch for one in given for arch in archs_of(space, one)]
    if "arch" in given and "arch" not in space.menu:
        return archs_of(space, given["arch"])
    leaves = jax.tree.leaves(given)
    if not all(isinstance(leaf, np.ndarray | np.generic | jax.Array) for leaf in leaves):
        return [from_notation(space.menu, given)]
    own: Any = jax.tree.structure(space.menu)
    if own != jax.tree.structure(given) or not all(
        np.all((np.asarray(leaf) >= 0) & (np.asarray(leaf) < len(choice)))
        for leaf, choice in zip(leaves, jax.tree.leaves(space.menu), strict=True)
    ):
        raise UserError(f"an arch is not one of the space {space.name}: {given}")
    return [given] if np.ndim(leaves[0]) == 0 else choices.unstack(given)
