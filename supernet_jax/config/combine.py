"""The ways of combining the members' gradients as parts of a configuration."""

import dataclasses

from supernet_jax import combine
from supernet_jax.combine import Combine
from supernet_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class UnitSum:
    """Gradients are added, each with weight 1 (AttentiveNAS, AlphaNet)."""

    clip_member: float = 0.0
    """largest global norm of each subnet's gradient, 0 for no limit"""
    clip_sum: float = 0.0
    """largest global norm of the combined gradient, 0 for no limit"""

    def build(self, *, steps: int) -> Combine:
        """The rule for a run of so many steps."""
        return _clipped(combine.unit_sum(), self.clip_member, self.clip_sum)


@dataclasses.dataclass(frozen=True)
class ByRole:
    """Gradients are added with a weight for each role."""

    largest: float = 1.0
    """weight of the largest subnet"""
    smallest: float = 1.0
    """weight of the smallest subnet"""
    random: float = 1.0
    """weight of each random subnet"""
    clip_member: float = 0.0
    """largest global norm of each subnet's gradient before its weight, 0 for no limit"""
    clip_sum: float = 0.0
    """largest global norm of the combined gradient, 0 for no limit"""

    def build(self, *, steps: int) -> Combine:
        """The rule for a run of so many steps."""
        weights = {"largest": self.largest, "smallest": self.smallest, "random": self.random}
        return _clipped(
            combine.unit_sum(), self.clip_member, self.clip_sum, combine.by_role(weights)
        )


@dataclasses.dataclass(frozen=True)
class DelayedShrinking:
    """The largest subnet alone at first, then the others at a growing learning rate (DepS)."""

    delay: float = 0.5
    """share of the steps in which the largest trains alone; published: about one half"""
    ramp: float = 0.1
    """share of the steps in which the others' learning rate grows"""
    floor: float = 0.0
    """the factor at which it begins, of 1"""
    clip_member: float = 0.0
    """largest global norm of each subnet's gradient before its factor, 0 for no limit"""
    clip_sum: float = 0.0
    """largest global norm of the combined gradient, 0 for no limit"""

    def build(self, *, steps: int) -> Combine:
        """The rule for a run of so many steps."""
        for name, share in (("delay", self.delay), ("ramp", self.ramp)):
            require(0 <= share < 1, f"combine.{name} is {share}, but must be in [0, 1)")
        factor = combine.delayed_shrinking(
            delay=round(self.delay * steps), ramp=round(self.ramp * steps), floor=self.floor
        )
        return _clipped(combine.unit_sum(), self.clip_member, self.clip_sum, factor)


@dataclasses.dataclass(frozen=True)
class ConflictProjection:
    """The largest's gradient without what opposes the others' (NASViT)."""

    start: float = 0.0
    """share of the steps before projection begins"""
    limit: float = 2.0
    """upper limit of the projection's coefficient, as published"""
    by_array: bool = True
    """project each parameter array by itself, as published, or all of them as one vector"""
    clip_member: float = 0.0
    """largest global norm of each subnet's gradient, 0 for no limit"""
    clip_sum: float = 0.0
    """largest global norm of the combined gradient, 0 for no limit"""

    def build(self, *, steps: int) -> Combine:
        """The rule for a run of so many steps."""
        require(0 <= self.start < 1, f"combine.start is {self.start}, but must be in [0, 1)")
        rule = combine.conflict_projection(
            start=round(self.start * steps), limit=self.limit, by_array=self.by_array
        )
        return _clipped(rule, self.clip_member, self.clip_sum)


def _clipped(
    rule: Combine, member: float, total: float, factor: combine.Factor | None = None
) -> Combine:
    """Members are clipped, then scaled, then combined; then the whole is clipped."""
    for name, bound in (("clip-member", member), ("clip-sum", total)):
        require(bound >= 0, f"combine.{name} is {bound}, but must be at least 0")
    rule = rule if factor is None else combine.scaled(rule, factor=factor)
    return combine.clipped(rule, member=member or None, total=total or None)
