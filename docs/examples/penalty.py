"""A penalty of one's own: a search by gradients makes up its mind.

supernet train docs/examples/penalty.py --out runs/decided
supernet train docs/examples/penalty.py --out runs/decided --penalty.weight 1
"""

import dataclasses

import jax
import jax.numpy as jnp

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.training.recipe import Penalty


def decided(space: Space, *, weight: float) -> Penalty:
    """`weight` times the mean over decisions of `1 - sum_i p_i^2`, p an option's probability.

    After Tian et al. 2020 (discretisation-aware search, arXiv:2007.03154), who add the entropy of
    a code to the loss. This impurity is 0 where the entropy is, at an arch, and has a finite slope
    there.

    Args:
        space: whose decisions.
        weight: of the mean.
    """

    def penalty(params: Tree, arch: Arch | Code) -> Array:
        code = arch if choices.is_code(arch) else choices.one_hot(space.menu, arch)
        impurities = [1 - jnp.sum(jnp.square(shares)) for shares in jax.tree.leaves(code)]
        return weight * jnp.mean(jnp.stack(impurities))

    return penalty


@dataclasses.dataclass(frozen=True)
class Decided:
    """How far a code is from an arch is added to the loss."""

    weight: float = 0.1
    """of the mean impurity of decisions; more makes a search decide sooner"""

    def build(self, *, space: Space) -> Penalty:
        """The penalty for a space."""
        require(
            0 <= self.weight < float("inf"),
            f"penalty.weight is {self.weight}, must be at least 0 and finite",
        )
        return decided(space, weight=self.weight)


config = sj.Config(
    space=sj.spaces.NasBench201(resolution=8, channels=8, cells=1, stages=2),
    data=sj.Data(name="digits", held_out=0.2, second=0.5),
    sampler=sj.samplers.Darts(learning_rate=0.05),
    penalty=Decided(),
)
