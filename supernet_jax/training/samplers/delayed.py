"""Only the largest subnet at first."""

import dataclasses

from supernet_jax.elastic.choices import Menu
from supernet_jax.training.samplers import sampler, sandwich
from supernet_jax.training.samplers.sampler import Sampler, active


def delayed(inner: Sampler, *, start: int) -> Sampler:
    """Delayed shrinking (DepS, arXiv 2407.06167): before step `start` only the largest trains.

    The paper starts when the largest is half trained, with the sandwich rule. Its learning rates of
    the subnets, which rise after the start, are a matter of combining gradients, not of a sampler.

    Args:
        inner: what trains from `start` on; its first fixed member is the largest.
        start: step from which on subnets train.

    Raises:
        ValueError: `inner` has no fixed member.
    """
    if not inner.fixed:
        raise ValueError("delayed(inner) needs an inner sampler with the largest as fixed member")
    return inner._replace(members=lambda step: 1 if step < start else active(inner, step))


@dataclasses.dataclass(frozen=True)
class Delayed:
    """Delayed shrinking (DepS): only the largest at first, then the sandwich rule."""

    n_random: int = 2
    """random subnets per step; more take longer"""
    start_shrink: float = 0.5
    """share of the run's steps in which the largest trains alone"""

    def build(self, *, menu: Menu, steps: int) -> Sampler:
        """The sampler for a menu and a run of so many steps."""
        sampler.require_members(self.n_random, 0)
        sampler.require_share("start-shrink", self.start_shrink)
        inner = sandwich.sandwich(menu, n_random=self.n_random)
        return delayed(inner, start=round(self.start_shrink * steps))
