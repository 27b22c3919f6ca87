"""Banks of parameters: the row that an arch uses, and how a bank grows out of a coarser one.

Shape letters: `N` rows of a bank.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, shared_params
from supernet_jax.elastic.choices import Arch, Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Bank, Space, has_rows
from supernet_jax.errors import UserError
from supernet_jax.runtime import path_rules


def row_of(bank: Bank, rows: Tree, arch: Arch | Code) -> Tree:
    """What an arch uses of one group that has rows; of a code the mean, as likely as rows are."""
    if choices.is_code(arch):
        share = bank.row.probabilities(arch, bank.rows)
        return jax.tree.map(lambda p: jnp.tensordot(share, p, 1), rows)
    row = bank.row(arch)
    return jax.tree.map(lambda p: p[row], rows)


def used_by(space: Space, params: Tree, arch: Arch | Code) -> Tree:
    """The parameters that an arch uses: of groups that have rows, its row."""
    if space.bank is None:
        return params
    bank = space.bank
    return {
        owner: row_of(bank, own, arch) if bank.has(owner) else own for owner, own in params.items()
    }


def parents(before: Space, after: Space) -> tuple[int, ...]:
    """The row of an earlier bank from which each row of a later one goes on.

    Args:
        before: the space with the earlier bank, or with none: then all rows come from the one set
            of parameters.
        after: the same space with the later bank.

    Raises:
        UserError: archs that share a row later have different ones before, or no arch has a row.
    """
    if after.bank is None:
        raise UserError(
            f"the space {after.name} has no bank to grow into; give it one, as Bank(rows, row)"
        )
    lookups = [space.bank.row for space in (before, after) if space.bank is not None]
    paths = sorted({path for lookup in lookups for path in lookup.paths}, key=str)
    archs = choices.smallest(after.menu)
    options = [len(choices.get(after.menu, path)) for path in paths]
    for path, place in zip(paths, np.indices(options, np.int32, sparse=True), strict=True):
        archs = choices.replace(archs, path, place)
    later = np.asarray(after.bank.row(archs))
    earlier = np.zeros_like(later) if before.bank is None else np.asarray(before.bank.row(archs))
    later, earlier = np.broadcast_arrays(later, earlier)
    found = []
    for row in range(after.bank.rows):
        known = np.unique(earlier[later == row])
        if len(known) != 1:
            rows = f"the rows {known.tolist()}" if len(known) else "no row"
            raise UserError(
                f"archs of row {row} of the bank of {after.name} had {rows} before; each row must "
                "go on from one, so split rows, do not merge them, and leave out unused ones"
            )
        found.append(int(known[0]))
    return tuple(found)


def fork(tree: Any, before: Space, after: Space, of: Sequence[int] | None = None) -> Any:
    """Parameters, or all that holds trees like them, for a space whose bank has more rows.

    A child equals its parent bitwise, in momenta and averages, too. What belongs to no parameter
    with rows stays as it is.

    Args:
        tree: shared parameters of `before`, optimiser state, or a whole training state.
        before: the space that they belong to.
        after: the same space with a finer bank, or with a first one.
        of: for each new row the old one from which it goes on; None for what `parents` finds.

    Raises:
        UserError: a row is lost, or there is none of that number; groups with rows would lose them.
    """
    of = parents(before, after) if of is None else tuple(of)
    assert after.bank is not None
    old = 1 if before.bank is None else before.bank.rows
    if len(of) != after.bank.rows or not set(of) <= set(range(old)):
        raise UserError(
            f"the rows of a new bank of {after.bank.rows} go on from {list(of)}; give one of the "
            f"rows 0 to {old - 1} for each"
        )
    if lost := sorted(set(range(old)) - set(of)):
        raise UserError(
            f"rows of a new bank go on from {list(of)}, so row {lost[0]} of the old one would be "
            f"lost; each of its rows 0 to {old - 1} must be there"
        )
    had, have = with_rows(before), with_rows(after)
    if gone := had - have:
        raise UserError(
            f"the group {min(gone)[0]!r} has rows in the bank before and none in the new one; name "
            "it in the groups of the new bank, too"
        )

    def grown(path: Any, leaf: Any) -> Any:
        name = path_rules.ending_in(path, have)
        if name is None or np.ndim(leaf) == 0:
            return leaf
        return (leaf if name in had else leaf[None])[jnp.asarray(of)]

    return jax.tree_util.tree_map_with_path(grown, tree)


def with_rows(space: Space) -> set[tuple[str, ...]]:
    """The paths of those parameters that have rows."""
    names = path_rules.named_leaves(shared_params.parameter_shapes(space))
    paths = (tuple(name.split("/")) for name in names)
    return {path for path in paths if has_rows(space, path[0])}
