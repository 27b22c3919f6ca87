"""Strict fairness: in each step every option of every decision trains equally often."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Array, Menu, Path
from supernet_jax.elastic.space import Space
from supernet_jax.training.samplers import sampler
from supernet_jax.training.samplers.sampler import Sampler, Score, stateless


def members(menu: Menu, static: Sequence[Path]) -> int:
    """Members that a strictly fair step needs: the least common multiple of the numbers of options.

    Static decisions do not count: they are the step's, not the sampler's.
    """
    sizes = [len(choices.get(menu, p)) for p in choices.paths(menu) if p not in static]
    return math.lcm(*sizes)


def fair(menu: Menu, *, n_random: int) -> Sampler:
    """Strict fairness (FairNAS, arXiv 1907.01845, section 3 and algorithm 1), without a teacher.

    The paper has `m` options everywhere and trains `m` models a step, each option drawn without
    replacement. Here each decision with `O` options has its own: `ceil(M / O)` random permutations
    of them one after the other, of which the first `M` entries are used. Where `O` divides `M`
    every option is used `M / O` times in every step; elsewhere the numbers differ by at most one,
    and are equal in expectation. `members` tells the smallest `M` that divides everywhere.

    Args:
        menu: what may be chosen.
        n_random: M.
    """
    sizes = [len(choice) for choice in jax.tree.leaves(menu)]

    def sample(key: Array, step: Array, score: Score) -> choices.Arch:
        keys = jax.random.split(key, len(sizes))
        columns = [_dealt(k, size, n_random) for k, size in zip(keys, sizes, strict=True)]
        return choices.unpack(menu, jnp.stack(columns, axis=-1))

    return stateless((), n_random, sample)


def _dealt(key: Array, options: int, count: int) -> Array:
    """So many options of one decision, from one random permutation after another."""
    keys = jax.random.split(key, -(-count // options))
    rounds = jax.vmap(lambda k: jax.random.permutation(k, options))(keys)
    return rounds.reshape(-1)[:count].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Fair:
    """Strict fairness (FairNAS): every option equally often in every step, no teacher."""

    n_random: int = 0
    """random subnets per step; 0 for as many as make every decision strictly fair"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        sampler.require_members(self.n_random, 0)
        count = self.n_random or members(menu, space.static)
        return fair(menu, n_random=count)
