"""The samplers of the library as parts of a configuration."""

import dataclasses

from supernet_jax import sampling
from supernet_jax.choices import Menu
from supernet_jax.config.checks import require
from supernet_jax.sampling import Sampler


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """The sandwich rule: largest, smallest and random subnets in every step."""

    n_random: int = 2
    """random subnets per step"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        require(self.n_random >= 0, f"sampler.n-random is {self.n_random}, must be 0 or more")
        return sampling.sandwich(menu, n_random=self.n_random)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform single-path sampling: random subnets on hard labels, no teacher."""

    n_random: int = 1
    """random subnets per step"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        require(self.n_random >= 1, f"sampler.n-random is {self.n_random}, must be 1 or more")
        return sampling.uniform(menu, n_random=self.n_random)
