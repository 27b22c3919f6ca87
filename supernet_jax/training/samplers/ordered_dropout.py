"""Ordered dropout, one layer at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.errors import near, require
from supernet_jax.training.samplers import sampler
from supernet_jax.training.samplers.sampler import Sampler, Score, stateless


def ordered_dropout(
    menu: Menu, *, n_random: int = 1, decision: str = "rank", full: bool = True
) -> Sampler:
    """One decision takes any of its options, all others the largest (Maestro, arXiv 2308.14929, in
    the sampler of the published code).

    Every option of every decision is equally likely, and no pair of the two comes twice in a step
    before each of them came once.

    Args:
        menu: what may be chosen.
        n_random: M, members drawn per step.
        decision: the entry of the menu whose decisions are drawn.
        full: whether the largest subnet is the first member of every step.

    Raises:
        UserError: the menu has no such entry.
    """
    require(
        decision in menu,
        f"sampler.decision is {decision!r}, but the menu has {', '.join(sorted(menu))}"
        f"{near(decision, menu)}",
    )
    largest = choices.largest(menu)
    rows = []
    for path in choices.paths(menu):
        if path[0] == decision:
            options = range(len(choices.get(menu, path)))
            rows += [choices.replace(largest, path, np.int32(option)) for option in options]
    every = np.asarray(choices.pack(choices.stack(rows)))

    def sample(key: Array, step: Array, score: Score) -> Arch:
        del step, score
        rounds = -(-n_random // len(every))
        orders = [jax.random.permutation(k, len(every)) for k in jax.random.split(key, rounds)]
        return choices.unpack(menu, jnp.asarray(every)[jnp.concatenate(orders)[:n_random]])

    return stateless((largest,) if full else (), n_random, sample)


@dataclasses.dataclass(frozen=True)
class OrderedDropout:
    """One decision takes any of its options, all others the largest: factors are put in order."""

    n_random: int = 1
    """random subnets per step; more take longer"""
    decision: str = "rank"
    """the entry of the space's menu whose decisions are drawn"""
    full: bool = True
    """whether the largest subnet trains in every step too; without it nothing teaches"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        sampler.require_members(self.n_random, 1)
        return ordered_dropout(menu, n_random=self.n_random, decision=self.decision, full=self.full)
