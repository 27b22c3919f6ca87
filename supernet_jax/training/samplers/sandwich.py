"""The sandwich rule (BigNAS)."""

import dataclasses

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Menu
from supernet_jax.training.samplers import sampler, uniform
from supernet_jax.training.samplers.sampler import Sampler


def sandwich(menu: Menu, *, n_random: int = 2) -> Sampler:
    """The sandwich rule: the largest, the smallest and `n_random` uniform subnets.

    BigNAS (arXiv 2003.11142), section 3.1; AlphaNet trains with 2 random members.
    """
    return uniform.with_uniform(menu, (choices.largest(menu), choices.smallest(menu)), n_random)


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """The sandwich rule: largest, smallest and random subnets in every step."""

    n_random: int = 2
    """random subnets per step; more take longer"""
    regularised: tuple[str, ...] = ("largest",)
    """roles with dropout and drop path: any of largest, smallest and random"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        sampler.require_members(self.n_random, 0)
        made = sandwich(menu, n_random=self.n_random)
        return made._replace(regularised=self.regularised)
