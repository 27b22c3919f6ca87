"""Sub-models of one chain, each inside the next."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu, Path
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.training.samplers import sampler
from supernet_jax.training.samplers.sampler import Sampler, Score, stateless


def chain(menu: Menu, *, levels: int, static: Sequence[Path] = ()) -> Arch:
    """Nested archs from the smallest to the largest: NumPy, `[L]`, L at most `levels`.

    Level `t` of 0 to 1 takes of each decision the option at `round(t * (O - 1))`, so all sizes grow
    together and each arch lies inside the next. Levels that give the same arch are one. All are at
    the largest size of inputs, which is the step's anyway: no arch comes twice because of it.
    """
    last = np.asarray([len(choice) - 1 for choice in jax.tree.leaves(menu)])
    shares = np.repeat(np.linspace(0, 1, levels)[:, None], len(last), axis=1)
    shares[:, [path in static for path in choices.paths(menu)]] = 1
    packed = np.unique(np.floor(shares * last + 0.5).astype(np.int32), axis=0)
    return choices.unpack(menu, packed[np.argsort(packed.sum(-1), kind="stable")])


def nested(
    menu: Menu, *, levels: int = 8, n_random: int = 2, static: Sequence[Path] = ()
) -> Sampler:
    """Nested sub-models in order of size (SortedNet, arXiv 2309.00255, section 3).

    Each random member is one of the chain, all equally likely; the members of a step are what the
    paper calls gradient accumulation. The largest is a fixed member, so that it can teach, which is
    ours: in the paper it is one of those drawn.

    Args:
        menu: what may be chosen.
        levels: sub-models of the chain, 2 or more.
        n_random: members drawn per step.
        static: where the decisions stand in the menu that are the step's.
    """
    archs = chain(menu, levels=levels, static=static)
    count = len(jax.tree.leaves(archs)[0])

    def sample(key: Array, step: Array, score: Score) -> Arch:
        which = jax.random.randint(key, (n_random,), 0, count)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[which], archs)

    return stateless((choices.largest(menu),), n_random, sample)


@dataclasses.dataclass(frozen=True)
class Nested:
    """Nested sub-models in order of size (SortedNet), beside the largest."""

    n_random: int = 2
    """random subnets per step; more take longer"""
    levels: int = 8
    """sub-models of the chain; more lie nearer to each other"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        sampler.require_members(self.n_random, 1)
        require(self.levels >= 2, f"sampler.levels is {self.levels}, must be 2 or more")
        return nested(menu, levels=self.levels, n_random=self.n_random, static=space.static)
