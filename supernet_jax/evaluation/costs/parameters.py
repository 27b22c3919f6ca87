"""Parameters, norms and biases included."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import ClassVar

import jax
import numpy as np

from supernet_jax.elastic.space import Geometry, Space
from supernet_jax.evaluation.costs import block_tables
from supernet_jax.evaluation.costs.block_tables import BlockCost, BlockTables
from supernet_jax.evaluation.costs.cost import Cost, check_is_space
from supernet_jax.runtime import owned


def parameters(space: Space) -> Cost:
    """Parameters of the subnet, norms and biases included: `arch[...] -> [...]`.

    Blocks that share parameters count once, as the largest of those that the arch keeps. Those of
    `space.uncounted` do not count, as in the space's paper.

    Raises:
        UserError: it is no space.
    """
    check_is_space(space)
    return BlockCost(space, _tables(space))


def left_out(space: Space) -> Cost:
    """Parameters of the subnet's blocks that `parameters` does not count: `arch[...] -> [...]`."""
    made = _all_tables(space)
    return BlockCost(
        space, made._replace(tables=_but(made.tables, set(made.tables) - set(space.uncounted)))
    )


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters of a subnet, exact."""

    name: ClassVar[str] = "parameters"
    unit: ClassVar[str] = "parameters"

    def build(self, space: Space) -> Cost:
        """The cost of a space's archs."""
        return parameters(space)

    def tables(self, space: Space) -> BlockTables:
        """Of its blocks."""
        return _tables(space)


def _tables(space: Space) -> BlockTables:
    made = _all_tables(space)
    return made._replace(tables=_but(made.tables, space.uncounted))


def _but(tables: Mapping[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
    """The tables with zeros for blocks of these names."""
    return {name: table * (name not in names) for name, table in tables.items()}


@owned.by(owned.first)
def _all_tables(space: Space) -> BlockTables:
    def of_specs(place: Geometry, first: Geometry | None) -> list[int]:
        trees = [s.params for s in block_tables.spec_shapes(place if first is None else first)]
        return [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in trees]

    return BlockTables(block_tables.tables(space, of_specs), "tied")
