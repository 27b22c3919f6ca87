"""Progressive shrinking: options open one after the other, the largest first."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import channel_order, choices
from supernet_jax.elastic.choices import Arch, Array, Menu, Path, paths
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, near, require
from supernet_jax.training.samplers.sampler import (
    Reorder,
    Sampler,
    Score,
    require_members,
    require_share,
    stateless,
)


class Opening(NamedTuple):
    """What opens at a step.

    Attributes:
        decisions: names of entries of the menu, with all that is under them.
        start: step at which it opens.
        options: how many more options of each of its decisions, the next smaller ones; 0 for all.
    """

    decisions: tuple[str, ...]
    start: int
    options: int = 0


def openings(menu: Menu, phases: Sequence[Opening], *, static: Sequence[Path]) -> np.ndarray:
    """The step at which each option opens: int32 `[D, O]`, in leaf order.

    The largest option of every decision is open from step 0, as are all static decisions: the step
    draws them. Beyond a decision's own options stands what never opens.

    Raises:
        ValueError: phases not in order, a name that the menu lacks, or options that no phase opens.
    """
    paths = choices.paths(menu)
    sizes = [len(choices.get(menu, path)) for path in paths]
    never = np.iinfo(np.int32).max
    opens = np.full((len(paths), max(sizes)), never, np.int32)
    low = np.asarray(sizes) - 1  # the smallest open option
    for row, size in enumerate(sizes):
        opens[row, 0 if paths[row] in static else size - 1 : size] = 0
    low[[path in static for path in paths]] = 0
    if [phase.start for phase in phases] != sorted(phase.start for phase in phases):
        raise ValueError(f"phases must come in the order of their starts, got {list(phases)}")
    for phase in phases:
        rows = [i for i, path in enumerate(paths) if str(path[0]) in phase.decisions]
        missing = set(phase.decisions) - {str(path[0]) for path in paths}
        if missing:
            known = ", ".join(dict.fromkeys(str(path[0]) for path in paths))
            raise ValueError(f"the menu has no {', '.join(sorted(missing))}, only {known}")
        for i in rows:
            new = 0 if phase.options == 0 else max(low[i] - phase.options, 0)
            opens[i, new : low[i]] = phase.start
            low[i] = new
    closed = [name for name, i in zip(choices.names(menu), low, strict=True) if i > 0]
    if closed:
        raise ValueError(f"no phase opens all options of {', '.join(closed)}; add one for them")
    return opens


def progressive(
    menu: Menu,
    phases: Sequence[Opening],
    *,
    n_random: int = 2,
    static: Sequence[Path] = (),
    reorder: Reorder | None = None,
) -> Sampler:
    """Progressive shrinking (Once-for-All, arXiv 1908.09791, section 3.3).

    Before the first phase only the largest trains; then it teaches random members, uniform over
    the options that are open. In the paper the teacher is the largest as it was before the first
    phase, and does not train on: that it does is ours.

    Args:
        menu: what may be chosen.
        phases: in order; together they open everything but static decisions, which are elastic from
            the start.
        n_random: members drawn per step.
        static: where the decisions stand in the menu that are the step's.
        reorder: the sorting of channels by importance, at the step where the first width opens.
    """
    opens = openings(menu, phases, static=static)
    sizes = np.asarray([len(choice) for choice in jax.tree.leaves(menu)], np.int32)

    def sample(key: Array, step: Array, score: Score) -> Arch:
        own = np.arange(opens.shape[1]) < sizes[:, None]
        low = jnp.sum((jnp.asarray(opens) > step) & own, axis=1, dtype=jnp.int32)
        shape = (n_random, len(sizes))
        least, most = jnp.broadcast_to(low, shape), jnp.broadcast_to(sizes, shape)
        packed = jax.random.randint(key, shape, least, most, jnp.int32)
        return choices.unpack(menu, packed)

    first = phases[0].start if phases else 0
    sampler = stateless((choices.largest(menu),), n_random, sample)
    return sampler._replace(
        members=lambda step: 1 if step < first else 1 + n_random, reorder=reorder
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase of progressive shrinking, which begins where the one before it ends."""

    decisions: tuple[str, ...]
    """entries of the menu whose options open"""
    share: float
    """length of the phase, as a share of the run's steps; the last one lasts to the end"""
    options: int = 0
    """how many more options open, the next smaller ones; 0 opens all"""
    sort: bool = False
    """sort the channels inside blocks by importance when the phase begins; in one phase at most"""


@dataclasses.dataclass(frozen=True)
class Progressive:
    """Progressive shrinking (Once-for-All): the largest, then kernels, depths and widths open."""

    n_random: int = 2
    """random subnets per step; more take longer"""
    largest_alone: float = 0.3
    """share of the run's steps before the first phase, in which only the largest trains"""
    phases: tuple[Phase, ...] = (
        Phase(("kernel_size",), 0.2),
        Phase(("depth",), 0.05, options=1),
        Phase(("depth",), 0.2),
        Phase(("expand_ratio", "width"), 0.05, options=1, sort=True),
        Phase(("expand_ratio", "width"), 0.2),
    )
    """the phases, one after the other"""

    def build(self, *, menu: Menu, space: Space, steps: int) -> Sampler:
        """The sampler for a space and a run of so many steps."""
        require_members(self.n_random, 1)
        _require_phases(self, space)
        starts = [
            round(steps * (self.largest_alone + sum(p.share for p in self.phases[:i])))
            for i in range(len(self.phases))
        ]
        phases = [
            Opening(phase.decisions, start, phase.options)
            for phase, start in zip(self.phases, starts, strict=True)
        ]
        at = [start for phase, start in zip(self.phases, starts, strict=True) if phase.sort]
        try:
            return progressive(
                menu,
                phases,
                n_random=self.n_random,
                static=space.static,
                reorder=Reorder(at[0], lambda params: channel_order.by_importance(space, params))
                if at
                else None,
            )
        except ValueError as error:
            raise UserError(f"sampler.phases: {error}") from error


def _require_phases(sampler: Progressive, space: Space) -> None:
    require_share("largest-alone", sampler.largest_alone)
    for phase in sampler.phases:
        require_share("phases.share", phase.share)
        require(
            not isinstance(phase.decisions, str),
            f"sampler.phases.decisions is {phase.decisions!r}, must be a tuple, as "
            f"({phase.decisions!r},)",
        )
        require(phase.options >= 0, f"sampler.phases.options is {phase.options}, must be 0 or more")
    total = sampler.largest_alone + sum(phase.share for phase in sampler.phases)
    require(total < 1 + 1e-6, f"sampler.largest-alone and the phases' shares add up to {total}")
    sorts = sum(phase.sort for phase in sampler.phases)
    require(sorts <= 1, f"sampler.phases sort channels {sorts} times; once at most")
    known = {str(path[0]) for path in paths(space.menu)}
    for name in (name for phase in sampler.phases for name in phase.decisions):
        require(
            name in known,
            f"sampler.phases opens {name!r}, but space {space.name} has {', '.join(sorted(known))}"
            f"{near(name, known)}",
        )
