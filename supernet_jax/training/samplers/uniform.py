"""Uniform sampling, alone and in a sandwich."""

import dataclasses

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Menu
from supernet_jax.training.samplers import sampler
from supernet_jax.training.samplers.sampler import Sampler, stateless


def uniform(menu: Menu, *, n_random: int = 1) -> Sampler:
    """Uniform single-path sampling (SPOS, arXiv 1904.00420): no fixed member, hence no teacher."""
    return with_uniform(menu, (), n_random)


def with_uniform(menu: Menu, fixed: tuple[Arch, ...], n_random: int) -> Sampler:
    """Fixed members, and `n_random` uniform ones."""
    return stateless(
        fixed, n_random, lambda key, step, score: choices.sample(menu, key, (n_random,))
    )


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform single-path sampling: random subnets on hard labels, no teacher."""

    n_random: int = 1
    """random subnets per step; more take longer"""
    regularised: tuple[str, ...] = ()
    """roles with dropout and drop path: random, or none"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        sampler.require_members(self.n_random, 1)
        made = uniform(menu, n_random=self.n_random)
        return made._replace(regularised=self.regularised)
