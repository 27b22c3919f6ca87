"""Which decisions meet in a block, and which do not.

What several decisions make of one block together is no sum of what each does. A search that looks
at one decision at a time may look at all those at once of which no two meet.

Shape letters: `D` decisions, `G` groups of them.
"""

from collections.abc import Callable, Hashable, Iterable

import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Path
from supernet_jax.elastic.space import Space


def readers(space: Space) -> dict[Path, set[str]]:
    """Names of the blocks that each decision makes, in leaf order of the menu."""
    found: dict[Path, set[str]] = {path: set() for path in choices.paths(space.menu)}
    for name, block in space.blocks.items():
        for lookup in (block.index, block.alive):
            for path in () if lookup is None else lookup.paths:
                found[path].add(name)
    return found


def groups(
    space: Space, owners: Callable[[str], Iterable[Hashable]] = lambda name: (name,)
) -> np.ndarray:
    """Decisions dealt into groups of which no two meet: bool `[G, D]`, in leaf order.

    No block reads two of a group. Static decisions, and those of one option, are in none, every
    other one is in one; where there are no others, the one group is empty.

    Args:
        space: whose decisions.
        owners: of a block's name, what it is a part of: decisions of blocks with a common owner
            meet, too. Each block stands by itself unless it is given.
    """
    found: list[tuple[set[Hashable], list[int]]] = []  # owners that a group has, and its decisions
    for place, (path, names) in enumerate(readers(space).items()):
        if path in space.static or len(choices.get(space.menu, path)) == 1:
            continue
        own = {owner for name in names for owner in owners(name)}
        free = next((group for group in found if not group[0] & own), None)
        if free is None:
            found.append(free := (set(), []))
        free[0].update(own)
        free[1].append(place)
    table = np.zeros((max(len(found), 1), len(choices.paths(space.menu))), bool)
    for row, (_, places) in zip(table, found, strict=False):
        row[places] = True
    return table
