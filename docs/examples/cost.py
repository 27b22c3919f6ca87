"""A cost of one's own: the largest feature map, which has to fit a microcontroller's memory."""

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import elastic_block
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space, geometry
from supernet_jax.evaluation.costs import Cost


def largest_map(space: Space) -> Cost:
    """Values of the largest output of a block, for one image: `arch[...] -> [...]`, integers.

    One table for each block, `[sizes, specs]`, answers for every arch.
    """
    places = [geometry(space, r) for r in space.sizes]

    def values(name: str, place: dict, spec: elastic_block.Spec) -> int:
        """Of the output of one block at one size of inputs."""
        shapes = elastic_block.shapes(space.blocks[name], spec, place[name].inputs)
        return int(np.prod(shapes.output.shape))

    tables = {
        name: np.asarray([[values(name, place, s) for s in block.specs] for place in places])
        for name, block in space.blocks.items()
        if name in places[0]  # that the topology runs
    }

    def cost(arch: Arch) -> np.ndarray | jax.Array:
        traced = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arch))
        xp = jnp if traced else np  # NumPy in, NumPy out
        which = space.which_size(arch)
        largest = 0
        for name, table in tables.items():
            block = space.blocks[name]
            size = xp.asarray(table)[which, block.index(arch)]
            there = 1 if block.alive is None else block.alive(arch)
            largest = xp.maximum(largest, size * there)
        return largest

    return cost
