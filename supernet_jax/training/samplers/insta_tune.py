"""The largest subnet and random ones, to train a supernet while a trained network is fine-tuned."""

import dataclasses

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Menu
from supernet_jax.training.samplers import sampler, uniform
from supernet_jax.training.samplers.sampler import Sampler


def insta_tune(menu: Menu, *, n_random: int = 1) -> Sampler:
    """The largest, which is the network that is fine-tuned, and `n_random` uniform subnets.

    After InstaTune (Sridhar et al. 2023, arXiv 2308.15609). Without random members the network is
    trained alone.
    """
    return uniform.with_uniform(menu, (choices.largest(menu),), n_random)


@dataclasses.dataclass(frozen=True)
class InstaTune:
    """The largest and random subnets in every step (InstaTune); alone without random ones."""

    n_random: int = 1
    """random subnets per step; more take longer, 0 trains the largest alone"""
    regularised: tuple[str, ...] = ("largest",)
    """roles with dropout and drop path: any of largest and random"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        sampler.require_members(self.n_random, 0)
        made = insta_tune(menu, n_random=self.n_random)
        return made._replace(regularised=self.regularised)
