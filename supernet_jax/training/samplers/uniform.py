"""Uniform sampling, alone and in a sandwich."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.evaluation.costs import Cost
from supernet_jax.training.samplers import macs_table, sampler
from supernet_jax.training.samplers.sampler import Sampler, Score, stateless


def uniform(menu: Menu, *, n_random: int = 1) -> Sampler:
    """Uniform single-path sampling (SPOS, arXiv 1904.00420): no fixed member, hence no teacher."""
    return with_uniform(menu, (), n_random)


def uniform_within(menu: Menu, *, edges: Sequence[float], macs: Cost, n_random: int = 1) -> Sampler:
    """Uniform sampling of archs of limited MACs: SPOS' published code (train.py).

    For each member one of the ranges between the edges is drawn, all alike, and then the first of
    `macs_table.TRIES` uniform archs that lies in it. Where none does it is the one that comes
    nearest to its middle (the published code takes another uniform arch).

    Args:
        menu: what may be chosen.
        edges: MACs between the ranges, ascending, two or more.
        macs: `macs_table.reference_macs` of the space.
        n_random: members drawn per step.
    """
    bins = macs_table.even(menu, edges)

    def sample(key: Array, step: Array, score: Score) -> Arch:
        del step, score
        range_key, arch_key = jax.random.split(key)
        which = jax.random.randint(range_key, (n_random,), 0, len(edges) - 1)
        draw = functools.partial(macs_table.draw, bins, menu, macs)
        return jax.vmap(draw)(jax.random.split(arch_key, n_random), which)

    return stateless((), n_random, sample)


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

    macs: tuple[float, ...] = ()
    """edges of ranges of MACs, ascending, each of which is drawn as often; none for all subnets"""

    def build(self, *, menu: Menu, space: Space | None = None) -> Sampler:
        """The sampler for a space's menu; with `macs` it needs the space."""
        sampler.require_members(self.n_random, 1)
        if not self.macs:
            made = uniform(menu, n_random=self.n_random)
        elif space is None:
            raise UserError("sampler.macs needs the space; call build(menu=..., space=...)")
        else:
            count = macs_table.reference_macs(space)
            self._check(space.name, np.asarray(count(_some(menu))))
            made = uniform_within(menu, edges=self.macs, macs=count, n_random=self.n_random)
        return made._replace(regularised=self.regularised)

    def _check(self, name: str, macs: np.ndarray) -> None:
        edges = self.macs
        ranges = list(itertools.pairwise(edges))
        require(
            bool(ranges) and all(a < b for a, b in ranges),
            f"sampler.macs is {edges}; give two or more numbers, smallest first",
        )
        for (a, b), found in zip(ranges, np.histogram(macs, edges)[0], strict=True):
            require(
                found > 0,
                f"sampler.macs has the range from {a:,.0f} to {b:,.0f}, but of {macs.size:,} "
                f"random subnets of {name} none lies there: they have {macs.min():,.0f} to "
                f"{macs.max():,.0f} MACs",
            )


def _some(menu: Menu) -> Arch:
    """Uniform archs on the host, many enough to tell which ranges can be drawn from."""
    drawn = choices.sample(menu, jax.random.key(0), (macs_table.CHUNK,))
    return jax.tree.map(np.asarray, drawn)
