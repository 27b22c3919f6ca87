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
from supernet_jax.experiment import codes
from supernet_jax.experiment.front import Entry
from supernet_jax.experiment.run import Run
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded

ENDS = {"smallest": choices.smallest, "largest": choices.largest}


def read_archs(of: Space | Run, text: str) -> list[Arch]:
    """Reads archs from what a user gave: a name, JSON, or a file of JSON.

    Args:
        of: whose archs; a space has none that a run has learned.
        text: a name (`smallest`, `largest`, of a run that has learned a code also `argmax` and
            `sampled:SEED`), an arch in the notation of the space as JSON, or a path of a JSON file
            with one arch, a list of them and of names, results that hold them under "arch", or the
            result of a search, whose front is taken.

    Raises:
        UserError: not readable as any of those; an arch that is not in the space; a run without a
            code.
    """
    if _is_name(text):
        return [_named(of, text)]
    space = of.space if isinstance(of, Run) else of
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
            is_name = isinstance(item, str) and _is_name(item)
            archs.append(_named(of, item) if is_name else from_notation(space.menu, notation))
        except UserError as error:
            place = f"{source}, arch {i}" if len(items) > 1 else source
            raise UserError(f"{place}: {error} (space {space.name})") from None
    return archs


def _is_name(text: str) -> bool:
    return text in ENDS or codes.is_name(text)


def _named(of: Space | Run, name: str) -> Arch:
    """The arch that a name stands for."""
    if name in ENDS:
        return ENDS[name](of.space.menu if isinstance(of, Run) else of.menu)
    if not isinstance(of, Run):
        raise UserError(
            f"{name} is an arch of a code that a run has learned, but {of.name} is a space; give "
            "smallest, largest, an arch as JSON or a file of archs"
        )
    return codes.arch_of(of, name)


def _read_text(path: str) -> str:
    file = expanded(path)
    try:
        return files.read_text(file, kind="JSON file")
    except UserError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        there = [other.name for other in files.found(file.parent, "*.json")]
        hint = near(file.name, [*ENDS, codes.ARGMAX, *there])
        raise UserError(
            f"there is no file {path}; give a JSON file, an arch as JSON, `smallest`, `largest`, "
            f"or of a run that learned a code `argmax` or `sampled:SEED`{hint}"
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


def archs_of(of: Space | Run, given: Any) -> list[Arch]:
    """One or several archs, however they are given, as a list.

    Args:
        of: whose archs; see `read_archs`.
        given: an arch (option indices, as `sample` gives them; also several along a leading axis),
            its notation, a record or an entry of a front, a sequence of any of these, or text as
            `read_archs` takes it.

    Raises:
        UserError: it is none of those, or of another space.
    """
    if isinstance(given, str | os.PathLike):
        return read_archs(of, os.fspath(given))
    space = of.space if isinstance(of, Run) else of
    if isinstance(given, Entry):
        return [given.arch]
    if not isinstance(given, Mapping):
        if not isinstance(given, Sequence) or not given:
            raise UserError(f"{given!r} is no arch, and no sequence of archs")
        return [arch for one in given for arch in archs_of(of, one)]
    if "arch" in given and "arch" not in space.menu:
        return archs_of(of, given["arch"])
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
