"""What the network costs that superkernels have decided for (Single-Path NAS)."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.transforms import superkernels
from supernet_jax.errors import require
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs import Cost
from supernet_jax.training.recipe import Penalty


def superkernel_cost(space: Space, cost: Cost, *, weight: float) -> Penalty:
    """`weight * log(R / R of the largest)`, R the cost of what the superkernels use (Stamoulis et
    al. 2019, arXiv 1904.02877, section 3.3). Its gradient goes through their indicators to the
    thresholds and the kernels. Dividing by the largest changes no gradient, and keeps the loss
    where the guard against collapse knows it.

    Args:
        space: whose blocks have superkernels.
        cost: of the space, made of those of blocks.
        weight: lambda.
    """
    superkernels.require(space)
    expected, largest = costs.expected(cost), costs.span(space, cost)[1]

    def penalty(params: Tree, arch: Arch | Code) -> Array:
        return weight * jnp.log(expected(superkernels.code(space, params)) / largest)

    return penalty


@dataclasses.dataclass(frozen=True)
class SuperkernelCost:
    """The logarithm of what the network costs that superkernels have decided for."""

    weight: float = 0.02
    """of the logarithm; more gives cheaper subnets"""
    cost: Any = dataclasses.field(default_factory=costs.Macs)
    """which cost is lowered: a part, as Macs() or Latency(table)"""

    def build(self, space: Space) -> Penalty:
        """The penalty for a space of superkernels."""
        require(
            0 <= self.weight < float("inf"),
            f"penalty.weight is {self.weight}, must be at least 0 and finite",
        )
        require(
            hasattr(self.cost, "build"),
            f"penalty.cost is {self.cost!r}; give a part that builds a cost, as sj.costs.Macs()",
        )
        return superkernel_cost(space, self.cost.build(space), weight=self.weight)
