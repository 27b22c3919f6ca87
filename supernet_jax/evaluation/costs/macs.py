"""Multiply-accumulates: those of all products, batch 1, those of attention included.

No bias, normalisation, activation, pooling, resize or addition counts. That is the published rule;
`nn.macs` counts them.
"""

import dataclasses
import math
from typing import ClassVar

import flax

from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Geometry, Space
from supernet_jax.evaluation.costs import block_tables
from supernet_jax.evaluation.costs.block_tables import BlockCost, BlockTables
from supernet_jax.evaluation.costs.cost import Cost, check_is_space
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import owned


def macs(space: Space) -> Cost:
    """Multiply-accumulates of one example at the arch's own size: `arch[...] -> [...]`.

    Raises:
        UserError: it is no space.
    """
    check_is_space(space)
    return BlockCost(space, _tables(space))


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one example, exact."""

    name: ClassVar[str] = "macs"
    unit: ClassVar[str] = "MACs"

    def build(self, space: Space) -> Cost:
        """The cost of a space's archs."""
        return macs(space)

    def tables(self, space: Space) -> BlockTables:
        """Of its blocks."""
        return _tables(space)


def union_macs(space: Space) -> int:
    """Multiply-accumulates of one example through all blocks at their largest, at the largest
    size of inputs: no subnet has more. Quick, as it needs no table of specs.
    """
    places = elastic_space.geometry(space, space.sizes[-1]).values()
    return sum(place.shapes.macs for place in places)


@owned.by(owned.first)
def _tables(space: Space) -> BlockTables:
    return BlockTables(block_tables.tables(space, _of_specs))


def _of_specs(place: Geometry, first: Geometry | None) -> list[int]:
    union, at = place.shapes, place.shapes.positions
    kernels = _kernels(union.params)
    if first is None or union.macs > sum(n * at[layer] for layer, n in kernels.items()):
        return [own.macs for own in block_tables.spec_shapes(place)]
    # Kernels alone: each is applied at as many places in a small spec as in the union, which
    # spares tracing every spec at every size.
    own = [_kernels(shapes.params) for shapes in block_tables.spec_shapes(first)]
    return [sum(n * at[layer] for layer, n in kernels.items()) for kernels in own]


def _kernels(shapes: block_shapes.Shapes) -> dict[tuple[str, ...], int]:
    """Size of each layer's kernel, by the layer's path."""
    flat = flax.traverse_util.flatten_dict(shapes)
    return {path[:-1]: math.prod(s.shape) for path, s in flat.items() if path[-1] == "kernel"}
