"""A sampler of one's own: a sandwich whose random subnets are larger, or smaller, than uniform.

supernet train docs/examples/sampler.py --out runs/tilted
supernet train docs/examples/sampler.py --out runs/smaller --sampler.tilt -2
supernet info docs/examples/sampler.py --sampler --out tilted.png
"""

import dataclasses

import jax
import jax.numpy as jnp

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.training.samplers.sampler import Sampler, Score, require_members, stateless


def tilted(menu: Menu, *, n_random: int, tilt: float) -> Sampler:
    """Option `i` of `O` has a probability in proportion to `exp(tilt * i / (O - 1))`.

    Args:
        menu: what may be chosen.
        n_random: M, members drawn per step.
        tilt: above 0 for larger subnets, below 0 for smaller ones, 0 for uniform ones.
    """

    def sample(key: Array, step: Array, score: Score) -> Arch:
        del step, score
        options = jax.tree.leaves(menu)
        keys = jax.random.split(key, len(options))
        columns = [
            jax.random.categorical(k, tilt * jnp.linspace(0, 1, len(choice)), shape=(n_random,))
            for k, choice in zip(keys, options, strict=True)
        ]
        return choices.unpack(menu, jnp.stack(columns, axis=-1).astype(jnp.int32))

    return stateless((choices.largest(menu), choices.smallest(menu)), n_random, sample)


@dataclasses.dataclass(frozen=True)
class Tilted:
    """Largest, smallest and random subnets, which are larger or smaller than uniform ones."""

    n_random: int = 2
    """random subnets per step"""
    tilt: float = 2.0
    """the higher, the larger the random subnets; 0 for uniform ones, below 0 for smaller ones"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        require_members(self.n_random, 0)
        return tilted(menu, n_random=self.n_random, tilt=self.tilt)


config = sj.Config(sampler=Tilted(tilt=1.5))
