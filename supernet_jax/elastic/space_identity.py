"""What a checkpoint says of its space, and whether that is the space at hand."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax

from supernet_jax.elastic import elastic_block, shared_params
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.runtime import path_rules

NO_TASK = {"name", "fingerprint", "blocks", "menu"}  # what of it is no field of the task


def describe_space(space: Space) -> dict[str, Any]:
    """What `meta["space"]` holds: name, decisions and a fingerprint that two spaces share only if
    they give the same sizes to the same archs. Rates, as of dropout, do not count.
    """
    menu = {
        name: list(choice.values) for name, choice in path_rules.named_leaves(space.menu).items()
    }
    described = {**described_task(space.task), "menu": menu}
    blocks = {
        name: {
            "specs": [elastic_block.sizes(spec) for spec in block.specs],
            "picks": [block.index.paths, block.index.table.tolist()],
            "alive": block.alive and [block.alive.paths, block.alive.table.tolist()],
            "group": block.group,
        }
        for name, block in space.blocks.items()
    }
    rows = space.bank and space.bank.rows
    if space.bank is not None:
        row = space.bank.row
        groups = space.bank.groups and sorted(space.bank.groups)
        own = _hash([row.paths, row.table.tolist(), groups])
        described["bank"] = f"of {rows} rows ({own})"
    fingerprint = _hash([described, blocks, rows])
    layers = {
        name: [
            type(block.module(block.union)).__qualname__,
            path_rules.named_leaves(jax.tree.map(_shape, union.params)),
            [transform.key for transform in block.transforms],
        ]
        for name, (block, union) in shared_params.unions(space).items()
    }
    made_of = _hash([space.task.name, layers])
    return {"name": space.name, "fingerprint": fingerprint, "blocks": made_of, **described}


def alike_but_for_banks(one: Space, other: Space) -> bool:
    """Whether two spaces are the same, or would be with the same bank."""
    plain = (dataclasses.replace(space, bank=None) for space in (one, other))
    first, second = map(describe_space, plain)
    return first == second


def described_task(task: Any) -> dict[str, Any]:
    """The fields of a task, which is a dataclass."""
    return dataclasses.asdict(task)


def check_space(meta: Mapping[str, Any], space: Space) -> None:
    """Makes sure that a checkpoint belongs to a space.

    Raises:
        UserError: it is of another one; the message says in what they differ.
    """
    saved, own = meta.get("space"), describe_space(space)
    if not isinstance(saved, Mapping) or "fingerprint" not in saved:
        raise UserError(
            "the checkpoint's meta does not say of which space it is; save it with describe_space"
        )
    # Older checkpoints do not say what their blocks are made of.
    if saved["fingerprint"] != own["fingerprint"] or saved.get("blocks") not in (
        None,
        own["blocks"],
    ):
        raise UserError(
            f"the checkpoint is of the space {saved.get('name')!r}, not of this {own['name']!r}: "
            f"{_difference(saved, own)}; pass the space that it was trained with"
        )


def _difference(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    for key in own.keys() - NO_TASK:
        if saved.get(key) != own[key]:
            return f"its {key} is {saved.get(key)}, here {own[key]}"
    if "bank" in saved and "bank" not in own:
        return f"it has a bank {saved['bank']}, here there is none"
    theirs, ours = dict(saved.get("menu", {})), own["menu"]
    for name in {**theirs, **ours}:
        if theirs.get(name) != ours.get(name):
            there, here = theirs.get(name, "missing"), ours.get(name, "missing")
            return f"its decision {name} is {there}, here {here}"
    if saved.get("fingerprint") == own["fingerprint"]:
        return "the decisions and sizes are the same, but its blocks have other layers"
    return "the decisions are the same, but sizes of its blocks are not"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _shape(leaf: jax.ShapeDtypeStruct) -> str:
    return "x".join(map(str, leaf.shape))
