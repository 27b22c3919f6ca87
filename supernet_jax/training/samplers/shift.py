"""Probability over MACs that follows where subnets still learn."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.evaluation.costs import Cost
from supernet_jax.training.samplers import macs_table, sampler
from supernet_jax.training.samplers.arch_generator import ArchGenerator, arch_generator
from supernet_jax.training.samplers.macs_table import Bins
from supernet_jax.training.samplers.sampler import Sampler, Score

QUICK, SLOW = 0.9, 0.98  # decay of the two averages of a bin's loss, per visit


class ShiftState(NamedTuple):
    """What is known of the bins.

    Attributes:
        key: data of the key of the bins that are drawn.
        taken: int32 `[]`, steps taken.
        quick: float32 `[K]`, average of the losses of a bin over its last visits.
        slow: the same over more of them.
        seen: bool `[K]`, whether a bin was visited.
        generator: parameters of the generator, or none.
    """

    key: Array
    taken: Array
    quick: Array
    slow: Array
    seen: Array
    generator: Any = ()


def shift(
    menu: Menu,
    *,
    bins: Bins,
    macs: Cost,
    n_random: int = 2,
    floor: float = 0.2,
    generator: ArchGenerator | None = None,
) -> Sampler:
    """Probability shift over bins of MACs (after ShiftNAS, arXiv 2307.08300), in a sandwich.

    The paper moves the probability of a range of costs by how much the performance of its subnets
    still varies. The rule here is ours: a bin's variation is `v = |quick - slow|`, of two running
    averages of its loss, and `P = floor / K + (1 - floor) * v / sum(v)` over the bins that
    are not empty. Until each of these was visited they are equally likely, unlike under uniform
    sampling. Archs of a bin come from the table, or from a generator, which is given wanted MACs
    that are uniform in the bin.

    Args:
        menu: what may be chosen.
        bins: of the space's table.
        macs: `macs_table.reference_macs` of the space.
        n_random: members drawn per step.
        floor: share of the draws that stays uniform over bins, in (0, 1]; with 0 a bin whose loss
            did not move would never be drawn again.
        generator: what draws archs of wanted MACs; None for the table.
    """

    def init(key: Array) -> ShiftState:
        count = len(bins.logits)
        # Arrays of their own: a step takes the state's memory, and no array twice.
        quick, slow, seen = jnp.zeros(count), jnp.zeros(count), jnp.zeros(count, bool)
        unlike_steps = jax.random.fold_in(key, np.uint32(2**32 - 1))
        params = () if generator is None else generator.init(unlike_steps)
        return ShiftState(jax.random.key_data(key), jnp.int32(0), quick, slow, seen, params)

    def targets(state: ShiftState) -> Array:
        """The bins of the step; `update` draws the same again, for it is not told them."""
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.taken)
        logits = jnp.log(probability(state, bins, floor=floor))
        return jax.random.categorical(key, logits, shape=(n_random,))

    def sample(state: ShiftState, key: Array, step: Array, score: Score) -> Arch:
        keys, edges = jax.random.split(key, n_random), jnp.asarray(bins.edges)

        def drawn(key: Array, which: Array) -> Arch:
            if generator is None:
                return macs_table.draw(bins, menu, macs, key, which)
            wanted_key, key = jax.random.split(key)
            low, high = edges[which], edges[which + 1]
            wanted = jax.random.uniform(wanted_key, minval=low, maxval=high)
            return generator.draw(state.generator, key, wanted)

        return jax.vmap(drawn)(keys, targets(state))

    def update(state: ShiftState, metrics: dict[str, Array]) -> ShiftState:
        which = targets(state)
        for i in range(n_random):
            loss = metrics.get(f"loss/random_{i + 1}")
            state = state if loss is None else _visited(state, which[i], loss)
        return state._replace(taken=state.taken + 1)

    fixed = (choices.largest(menu), choices.smallest(menu))
    return Sampler(fixed, n_random, init, sample, update)


def probability(state: ShiftState, bins: Bins, *, floor: float) -> Array:
    """How likely each bin is to be drawn, `[K]`."""
    usable = jnp.asarray(bins.logits > -jnp.inf)
    even = usable / jnp.sum(usable)
    # Not relative: divergences come near 0, and some are negative.
    change = jnp.where(usable, jnp.abs(state.quick - state.slow), 0.0)
    total = jnp.sum(change)
    known = jnp.all(state.seen | ~usable) & (total > 0)
    return jnp.where(known, floor * even + (1 - floor) * change / jnp.maximum(total, 1e-30), even)


def _visited(state: ShiftState, which: Array, loss: Array) -> ShiftState:
    """The state after a bin gave a loss; the first one starts both averages."""

    def averaged(old: Array, decay: float) -> Array:
        new = decay * old[which] + (1 - decay) * loss
        return old.at[which].set(jnp.where(state.seen[which], new, loss))

    return state._replace(
        quick=averaged(state.quick, QUICK),
        slow=averaged(state.slow, SLOW),
        seen=state.seen.at[which].set(True),
    )


@dataclasses.dataclass(frozen=True)
class Shift:
    """Probability over MACs that follows where losses move (after ShiftNAS), in a sandwich."""

    n_random: int = 2
    """random subnets per step; more take longer"""
    floor: float = 0.2
    """share of the draws that stays uniform over the ranges of MACs; 1 makes all uniform"""
    table: str | None = dataclasses.field(default=None, metadata={"path": True})
    """file of `supernet table`; if not given, a table of 20,000 archs is made at the start"""
    bins: int = 20
    """ranges of MACs of the table that is made at the start; more are narrower"""
    generator: bool = False
    """draw subnets by a network, trained at the start to hit wanted MACs, and not by the table"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        sampler.require_members(self.n_random, 1)
        require(
            0 < self.floor <= 1,
            f"sampler.floor is {self.floor}, must be above 0 and at most 1; with 0 a range may "
            "never be drawn again",
        )
        return shift(
            menu,
            bins=macs_table.read_or_build(self.table, self.bins, space),
            macs=macs_table.reference_macs(space),
            n_random=self.n_random,
            floor=self.floor,
            generator=arch_generator(space) if self.generator else None,
        )
