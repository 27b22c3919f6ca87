"""Costs that are made of those of blocks: one table for each answers for every arch.

A table is built once from the modules themselves. NumPy archs give exact int64 where the tables are
whole numbers, JAX archs (also inside jit) exact int32 where the space's largest cost fits and
float32 otherwise.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.space import Geometry, Space
from supernet_jax.nn import block_shapes


class BlockTables(NamedTuple):
    """A cost as it is made of those of blocks.

    Attributes:
        tables: by block, `[sizes, specs]`, int64 or float64; 0 for specs that the block cannot have
            at a size, NaN where it is not known. A block that an arch skips costs nothing.
        total: "sum" of the blocks; "tied", where blocks that share parameters count once, as the
            largest of those that the arch keeps; or the "largest" block.
        constant: what is added for a whole network.
        digits: after the point, to which the cost of NumPy archs is rounded; None for all.
    """

    tables: Mapping[str, np.ndarray]
    total: Literal["sum", "tied", "largest"] = "sum"
    constant: float = 0
    digits: int | None = None

    def owner(self, space: Space, name: str) -> str:
        """What tells a block from others; those with one owner count as the largest of them."""
        return {"sum": name, "tied": elastic_space.group(space, name), "largest": ""}[self.total]


@dataclasses.dataclass(frozen=True, eq=False)
class BlockCost:
    """The cost that tables describe: `arch[...] -> [...]`.

    Attributes:
        space: whose archs.
        made: the tables.
    """

    space: Space
    made: BlockTables

    def __call__(self, arch: Arch) -> Array | np.ndarray:
        """What archs cost; NumPy in, NumPy out."""
        return _total(self.space, self.made, arch)


def _total(space: Space, made: BlockTables, arch: Arch) -> Array | np.ndarray:
    choices.require_arch(arch)
    traced = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arch))
    xp: Any = jnp if traced else np
    if traced:
        arch = jax.tree.map(jnp.asarray, arch)
        counts = all(table.dtype == np.int64 for table in made.tables.values())
        fits = counts and sum(int(table.max()) for table in made.tables.values()) < 2**31
        dtype = jnp.int32 if fits else jnp.float32
    which = space.which_size(arch)
    parts: dict[str, Any] = {}
    for name, table in made.tables.items():
        block = space.blocks[name]
        values = jnp.asarray(table.astype(dtype)) if traced else table
        cost = values[which, block.index(arch)]
        cost = cost if block.alive is None else cost * block.alive(arch)
        owner = made.owner(space, name)
        parts[owner] = xp.maximum(parts[owner], cost) if owner in parts else cost
    total: Any = sum(parts.values())
    total = total + made.constant if made.constant else total
    return total if traced or made.digits is None else np.round(total, made.digits)


def tables(
    space: Space, of_specs: Callable[[Geometry, Geometry | None], list[int]]
) -> dict[str, np.ndarray]:
    """Tables `[sizes, specs]` by block, int64.

    Args:
        space: whose blocks.
        of_specs: what each spec of a block costs at a size, also given the same block at the first
            size, if it has the same specs there and this is another.
    """
    first = elastic_space.geometry(space, space.sizes[0])
    made = {
        name: np.zeros((len(space.sizes), len(space.blocks[name].specs)), np.int64)
        for name in first
    }
    for row, size in enumerate(space.sizes):
        for name, place in elastic_space.geometry(space, size).items():
            specs = space.blocks[name].specs
            which = [specs.index(spec) for spec in place.block.specs]
            alike = row > 0 and place.block is first[name].block
            made[name][row, which] = of_specs(place, first[name] if alike else None)
    return made


def spec_shapes(place: Geometry) -> list[block_shapes.BlockShapes]:
    """The shapes of each spec of a block, as it is taken out."""
    block = place.block
    specs = map(block.taken_out, block.specs)
    return [elastic_block.shapes(block, spec, place.inputs) for spec in specs]
