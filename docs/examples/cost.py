"""A cost of one's own: the largest feature map, which has to fit a microcontroller's memory.

supernet train docs/examples/cost.py --out runs/digits
supernet search runs/digits --config docs/examples/cost.py --budget largest_map:..1024
"""

import dataclasses
from typing import ClassVar

import numpy as np

import supernet_jax as sj
from supernet_jax.elastic import elastic_block
from supernet_jax.elastic.space import Space, geometry
from supernet_jax.evaluation.costs import BlockCost, BlockTables, Cost


def largest_map(space: Space, *, bytes_per_value: int) -> BlockTables:
    """Bytes of the largest output of a block, for one example.

    One table for each block, `[sizes, specs]`, answers for every arch.
    """
    places = [geometry(space, size) for size in space.sizes]

    def values(name: str, place: dict, spec: elastic_block.Spec) -> int:
        """Of the output of one block at one size of inputs."""
        shapes = elastic_block.shapes(space.blocks[name], spec, place[name].inputs)
        return bytes_per_value * int(np.prod(shapes.output.shape))

    tables = {
        name: np.asarray([[values(name, place, s) for s in block.specs] for place in places])
        for name, block in space.blocks.items()
        if name in places[0]  # that the topology runs
    }
    return BlockTables(tables, "largest")


@dataclasses.dataclass(frozen=True)
class LargestMap:
    """Bytes of the largest output of a block."""

    name: ClassVar[str] = "largest_map"
    unit: ClassVar[str] = "bytes"
    bytes_per_value: int = 1
    """bytes of a number: 1 for int8, 4 for float32"""

    def build(self, space: Space) -> Cost:
        """The cost of a space's archs."""
        return BlockCost(space, self.tables(space))

    def tables(self, space: Space) -> BlockTables:
        """Of its blocks."""
        return largest_map(space, bytes_per_value=self.bytes_per_value)


config = sj.Config(costs=(LargestMap(),))
