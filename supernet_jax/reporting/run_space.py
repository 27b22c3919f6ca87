"""The space of a run, built again from what its folder says."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from supernet_jax.elastic import space_identity
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.reporting.tolerant_json import mapping
from supernet_jax.runtime import path_rules
from supernet_jax.storage import typed_json
from supernet_jax.storage.user_code import taken
from supernet_jax.tasks import TASKS, Task, offered


def space_of(
    described: Mapping[str, Any], meta: Mapping[str, Any], types: Mapping[str, type]
) -> Space:
    """Builds the space of a run.

    Args:
        described: the run's `config.json`.
        meta: of its last checkpoint.
        types: configuration dataclasses by name.

    Raises:
        UserError: why that cannot be done; or its decisions are not those of the checkpoint.
    """
    known = mapping(meta.get("space"))
    try:
        task = task_of(known)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("the checkpoint does not say for what task it is") from None
    part = typed_json.parse(Any, described.get("space"), "space", named=types)
    try:
        space: Space = part.build(**taken(part, **offered(task)))
    except Exception as error:  # whatever code of the user's raises
        raise UserError(f"it cannot be built again ({type(error).__name__}: {error})") from error
    named = path_rules.named_leaves(space.menu).items()
    if known.get("menu") != {name: list(choice.values) for name, choice in named}:
        raise UserError("the one that is built now has other decisions")
    return space


def task_of(known: Mapping[str, Any]) -> Task:
    """What a space is built for: the first of the library's tasks that has the fields which the
    checkpoint says.

    Raises:
        KeyError: none has.
    """
    for kind in TASKS.values():
        names = [field.name for field in dataclasses.fields(kind)]
        if {*names} == known.keys() - space_identity.NO_TASK:
            task: Task = typed_json.parse(kind, {name: known[name] for name in names}, "the task")
            return task
    raise KeyError("no such task")
