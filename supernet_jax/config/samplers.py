"""The samplers of the library as parts of a configuration.

`build` is given the space's menu, and what else it names of `space` and `steps` (of the run).
"""

import dataclasses
import inspect
import pathlib
from typing import Any, Literal

from supernet_jax import sampling
from supernet_jax.config.checks import require
from supernet_jax.elastic import channel_order
from supernet_jax.elastic.choices import Menu, paths
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, near
from supernet_jax.sampling import Reorder, Sampler
from supernet_jax.sampling import table as tables
from supernet_jax.sampling.fair import members
from supernet_jax.sampling.preferred import read as read_preferred


def taken(sampler: Any, **offered: Any) -> dict[str, Any]:
    """What of the offered the `build` of a sampler takes, which may be the user's own."""
    try:
        names = inspect.signature(sampler.build).parameters
    except (AttributeError, TypeError, ValueError):  # it has none; the experiment says so
        return {}
    return {name: value for name, value in offered.items() if name in names}


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """The sandwich rule: largest, smallest and random subnets in every step."""

    n_random: int = 2
    """random subnets per step"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        _require_members(self.n_random, 0)
        return sampling.sandwich(menu, n_random=self.n_random)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform single-path sampling: random subnets on hard labels, no teacher."""

    n_random: int = 1
    """random subnets per step"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        _require_members(self.n_random, 1)
        return sampling.uniform(menu, n_random=self.n_random)


@dataclasses.dataclass(frozen=True)
class Fair:
    """Strict fairness (FairNAS): every option equally often in every step, no teacher."""

    n_random: int = 0
    """random subnets per step; 0 for as many as make every decision strictly fair"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        _require_members(self.n_random, 0)
        count = self.n_random or members(menu, space.resolution)
        return sampling.fair(menu, n_random=count)


@dataclasses.dataclass(frozen=True)
class Attentive:
    """Best-up or worst-up of a few subnets of equal MACs (AttentiveNAS), in a sandwich."""

    n_random: int = 2
    """random subnets per step"""
    trials: int = 3
    """candidates for each of them, scored on the batch"""
    choose: Literal["best", "worst"] = "best"
    """which of them trains"""
    table: str | None = None
    """file of `supernet table`; without one, a table of 20,000 archs is made at the start"""
    bins: int = 40
    """ranges of MACs of that table"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        _require_members(self.n_random, 1)
        require(self.trials >= 1, f"sampler.trials is {self.trials}, must be 1 or more")
        return sampling.attentive(
            menu,
            bins=_bins(self.table, self.bins, space),
            macs=tables.reference_macs(space),
            n_random=self.n_random,
            trials=self.trials,
            best=self.choose == "best",
        )


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase of progressive shrinking, which begins where the one before it ends."""

    decisions: tuple[str, ...]
    """entries of the menu of which options open"""
    share: float
    """how long it lasts, as a share of the run's steps; the last one lasts to the end"""
    options: int = 0
    """how many more options open, the next smaller ones; 0 for all"""
    sort: bool = False
    """sort the channels inside blocks by importance when it begins; in one phase at most"""


@dataclasses.dataclass(frozen=True)
class Progressive:
    """Progressive shrinking (Once-for-All): the largest, then kernels, depths and widths open."""

    n_random: int = 2
    """random subnets per step"""
    largest_alone: float = 0.3
    """share of the run's steps before the first phase, in which only the largest trains"""
    phases: tuple[Phase, ...] = (
        Phase(("kernel_size",), 0.2),
        Phase(("depth",), 0.05, options=1),
        Phase(("depth",), 0.2),
        Phase(("expand_ratio", "width"), 0.05, options=1, sort=True),
        Phase(("expand_ratio", "width"), 0.2),
    )
    """what opens, in order"""

    def build(self, *, menu: Menu, space: Space, steps: int) -> Sampler:
        """The sampler for a space and a run of so many steps."""
        _require_members(self.n_random, 1)
        _require_phases(self, space)
        starts = [
            round(steps * (self.largest_alone + sum(p.share for p in self.phases[:i])))
            for i in range(len(self.phases))
        ]
        phases = [
            sampling.Phase(phase.decisions, start, phase.options)
            for phase, start in zip(self.phases, starts, strict=True)
        ]
        at = [start for phase, start in zip(self.phases, starts, strict=True) if phase.sort]
        try:
            return sampling.progressive(
                menu,
                phases,
                n_random=self.n_random,
                resolution=space.resolution,
                reorder=Reorder(at[0], lambda params: channel_order.by_importance(space, params))
                if at
                else None,
            )
        except ValueError as error:
            raise UserError(f"sampler.phases: {error}") from error


@dataclasses.dataclass(frozen=True)
class Delayed:
    """Delayed shrinking (DepS): only the largest at first, then the sandwich rule."""

    n_random: int = 2
    """random subnets per step"""
    start_shrink: float = 0.5
    """share of the run's steps after which subnets train"""

    def build(self, *, menu: Menu, steps: int) -> Sampler:
        """The sampler for a menu and a run of so many steps."""
        _require_members(self.n_random, 0)
        _require_share("start-shrink", self.start_shrink)
        inner = sampling.sandwich(menu, n_random=self.n_random)
        return sampling.delayed(inner, start=round(self.start_shrink * steps))


@dataclasses.dataclass(frozen=True)
class Nested:
    """Nested sub-models in order of size (SortedNet), beside the largest."""

    n_random: int = 2
    """random subnets per step"""
    levels: int = 8
    """sub-models of the chain"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        _require_members(self.n_random, 1)
        require(self.levels >= 2, f"sampler.levels is {self.levels}, must be 2 or more")
        return sampling.nested(
            menu, levels=self.levels, n_random=self.n_random, resolution=space.resolution
        )


@dataclasses.dataclass(frozen=True)
class Shift:
    """Probability over MACs that follows where losses move (after ShiftNAS), in a sandwich."""

    n_random: int = 2
    """random subnets per step"""
    floor: float = 0.2
    """share of the draws that stays uniform over the ranges of MACs"""
    table: str | None = None
    """file of `supernet table`; without one, a table of 20,000 archs is made at the start"""
    bins: int = 20
    """ranges of MACs of that table"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        _require_members(self.n_random, 1)
        require(
            0 < self.floor <= 1,
            f"sampler.floor is {self.floor}, must be above 0 and at most 1; with 0 a range may "
            "never be drawn again",
        )
        return sampling.shift(
            menu,
            bins=_bins(self.table, self.bins, space),
            macs=tables.reference_macs(space),
            n_random=self.n_random,
            floor=self.floor,
        )


@dataclasses.dataclass(frozen=True)
class Preferred:
    """Only archs that a score chose before training (PreNAS), beside the largest."""

    archs: str = ""
    """file of `supernet table CONFIG --score snip`"""
    n_random: int = 2
    """random subnets per step"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        _require_members(self.n_random, 1)
        require(
            bool(self.archs),
            "sampler.archs is not set; make the file with `supernet table CONFIG --score snip "
            "--out FILE` and name it",
        )
        archs = read_preferred(pathlib.Path(self.archs), menu)
        return sampling.preferred(menu, archs, n_random=self.n_random)


def _bins(file: str | None, bins: int, space: Space) -> tables.Bins:
    """The table of a file, or one made now."""
    require(bins >= 1, f"sampler.bins is {bins}, must be 1 or more")
    if file is None:
        return tables.arrays(tables.build(space, bins=bins, samples=20_000))
    table = tables.read(pathlib.Path(file))
    tables.check(table, space)
    return tables.arrays(table)


def _require_members(n_random: int, low: int) -> None:
    require(n_random >= low, f"sampler.n-random is {n_random}, must be {low} or more")


def _require_share(name: str, value: float) -> None:
    require(0 <= value <= 1, f"sampler.{name} is {value}, must be from 0 to 1")


def _require_phases(sampler: Progressive, space: Space) -> None:
    _require_share("largest-alone", sampler.largest_alone)
    for phase in sampler.phases:
        _require_share("phases.share", phase.share)
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
