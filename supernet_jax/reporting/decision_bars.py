"""What a page needs to draw the decisions of any arch beside the largest's, a bar for each.

A *column* is a block, or several that look alike in every arch. A *lane* is a kind of
decision, as `width`: the name of all that stand in one list of the menu.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.elastic import choices, code_names
from supernet_jax.elastic.choices import Lookup, Path
from supernet_jax.elastic.space import Space
from supernet_jax.reporting import run_space

APART = 60  # blocks that are drawn one by one
COLUMNS = 200  # that are drawn


class Column(NamedTuple):
    """Blocks that look alike in every arch.

    Attributes:
        blocks: their names.
        cells: the decision of each lane that they have.
        alive: which archs keep them; None for all.
    """

    blocks: list[str]
    cells: dict[str, Path]
    alive: Lookup | None


def columns(space: Space) -> list[Column]:
    """The blocks that an arch decides something of, in the order of the space.

    Of more than `APART` those that look alike in every arch are one column, as the edges of cells.
    """
    found = []
    for name, block in space.blocks.items():
        own = [path for path in block.index.paths if len(choices.get(space.menu, path)) > 1]
        # Of two in one lane, as the widths before and after a block, the last is its own.
        cells = {lane(path): path for path in own if path not in space.static}
        if cells or block.alive is not None:
            found.append(Column([name], cells, block.alive))
    if len(found) <= APART:
        return found
    merged: dict[Any, Column] = {}
    for blocks, cells, alive in found:
        kept = None if alive is None else (alive.paths, alive.table.tobytes())
        same = merged.setdefault((tuple(cells.values()), kept), Column([], cells, alive))
        same.blocks.extend(blocks)
    return list(merged.values())[:COLUMNS]


def lane(path: Path) -> str:
    """The lane of a decision: its path without the places in lists."""
    return "/".join(key for key in path if isinstance(key, str)) or "decision"


def described(space: Space) -> dict[str, Any]:
    """What of the bars is the same for all archs, as JSON values."""
    drawn = columns(space)
    paths = choices.paths(space.menu)
    places = {path: place for place, path in enumerate(paths)}
    lanes = list(dict.fromkeys(name for column in drawn for name in column.cells))
    asked = {path for block in space.blocks.values() for path in block.index.paths}
    asked |= {p for b in space.blocks.values() if b.alive is not None for p in b.alive.paths}
    rest = [p for p in paths if p not in asked or p in space.static]
    decisions = []
    for path in paths:
        values, names = choices.get(space.menu, path).values, code_names.option_names(space, path)
        own = None if names == tuple(map(str, values)) else names
        decisions.append({"name": "/".join(map(str, path)), "values": values, "names": own})
    return {
        "lanes": lanes,
        "decisions": decisions,
        "columns": [
            {
                "blocks": column.blocks,
                "cells": [
                    places[column.cells[name]] if name in column.cells else None for name in lanes
                ],
            }
            for column in drawn
        ],
        "rest": [places[p] for p in rest if len(choices.get(space.menu, p)) > 1],
    }


def drawn(space: Space, archs: Sequence[str]) -> list[dict[str, Any] | None]:
    """What of the bars is an arch's own, as JSON values: the option of each decision, and for
    each column 1 where it is there and 0 where not; None for what is no arch of the space.

    Args:
        space: whose archs.
        archs: in its notation, as JSON.
    """
    read = [run_space.arch_of(space, one) for one in archs]
    known = [arch for arch in read if arch is not None]
    if not known:
        return [None] * len(archs)
    together = choices.stack(known)
    options = np.asarray(choices.pack(together))
    there = np.ones((len(known), 0), int)
    for column in columns(space):
        kept = np.ones(len(known)) if column.alive is None else np.asarray(column.alive(together))
        there = np.c_[there, kept > 0]
    rows = iter(zip(options.tolist(), there.astype(int).tolist(), strict=True))
    made = ({"options": own, "there": kept} for own, kept in rows)
    return [None if arch is None else next(made) for arch in read]
