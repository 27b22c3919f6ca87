"""The space of a run, made again from its configuration, and the archs of it that files name."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.elastic import choices, notation, space_identity
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import Subnet
from supernet_jax.reporting.tolerant_json import mapping
from supernet_jax.storage import files, typed_json
from supernet_jax.storage.user_code import taken
from supernet_jax.tasks import TASKS, Task, offered

MOST = 2000  # subnets whose archs are read; of more an even part


class Known(NamedTuple):
    """Subnets whose archs are known.

    Attributes:
        space: of the run.
        subnets: N of them.
        archs: `[N]`, in their normal form; None where N is 0.
    """

    space: Space
    subnets: Sequence[Subnet]
    archs: Arch


def space(facts: Facts, types: Mapping[str, type]) -> Space:
    """The space of a run; raises as `made`."""
    return made(facts.config.get("space"), mapping(facts.meta.get("space")), types)


def made(described: Any, known: Mapping[str, Any], types: Mapping[str, type]) -> Space:
    """The space of a configuration.

    Args:
        described: the part of `config.json`.
        known: what the last checkpoint says of it.
        types: configuration dataclasses by name.

    Raises:
        UserError: why that cannot be done.
    """
    if not known:
        raise UserError("there is no checkpoint that says what its space is for")
    return _made(files.dumps(described), files.dumps(known), tuple(types.items()))


@functools.lru_cache(maxsize=1)  # several charts ask for it, and shapes are found once for each
def _made(described: str, known: str, types: tuple[tuple[str, type], ...]) -> Space:
    meta = {"space": json.loads(known)}
    part = typed_json.parse(Any, json.loads(described), "space", named=dict(types))
    try:
        meant = task(meta["space"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("the checkpoint does not say enough of its task") from None
    try:
        found: Space = part.build(**taken(part, **offered(meant)))
    except Exception as error:  # whatever code of the user's raises
        raise UserError(
            f"its space cannot be made again ({type(error).__name__}: {error})"
        ) from error
    space_identity.check_space(meta, found)
    return found


def task(known: Mapping[str, Any]) -> Task:
    """What a space is built for: the first of the library's tasks that has the fields which the
    checkpoint says.

    Raises:
        KeyError: there is none.
        UserError: the fields have other values than such a task may have.
    """
    for kind in TASKS.values():
        names = [field.name for field in dataclasses.fields(kind)]
        if {*names} == known.keys() - space_identity.NO_TASK:
            found: Task = typed_json.parse(kind, {name: known[name] for name in names}, "the task")
            return found
    raise KeyError("no such task")


def arch_of(space: Space, text: str) -> Arch | None:
    """The arch that a file names; None where that is no arch of the space.

    Args:
        space: of the run.
        text: the arch in the notation of the space, as JSON.
    """
    try:
        return notation.from_notation(space.menu, json.loads(text))
    except (UserError, ValueError, TypeError, KeyError, RecursionError):
        return None


def read(space: Space, subnets: Sequence[Subnet], *, most: int = MOST) -> Known:
    """Those of some subnets whose archs are of a space.

    Args:
        space: of the run.
        subnets: as files tell of them.
        most: that are read, evenly spaced.
    """
    places = np.unique(np.linspace(0, len(subnets) - 1, min(most, len(subnets))).astype(np.int64))
    kept, archs = [], []
    for place in places:
        arch = arch_of(space, subnets[place].arch)
        if arch is not None:
            archs.append(arch)
            kept.append(subnets[place])
    normal = elastic_space.normal(space, choices.stack(archs)) if archs else None
    return Known(space, kept, normal)
