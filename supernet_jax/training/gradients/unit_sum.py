"""Gradients added, each with weight 1 or with one by role."""

import dataclasses
import math
from collections.abc import Mapping

import optax

from supernet_jax.errors import UserError
from supernet_jax.training.gradients import combine
from supernet_jax.training.gradients.combine import Combine, Factor

ROLES = ("largest", "smallest", "random")


def unit_sum() -> Combine:
    """The published rule of AttentiveNAS and AlphaNet: gradients are added, each with weight 1."""
    return Combine(
        init=optax.tree.zeros_like,
        add=lambda carry, gradients, role, step: optax.tree.add(carry, gradients),
        finish=lambda carry: carry,
        is_sum=True,
    )


def by_role(weights: Mapping[str, float]) -> Factor:
    """A weight for each role, the same in every step.

    Args:
        weights: finite, at least 0, for "largest", "smallest" and "random"; members in other roles
            have that of the random ones.

    Raises:
        UserError: a role is missing or unknown, or a weight is out of range.
    """
    if set(weights) != set(ROLES):
        raise UserError(f"weights are given for {sorted(weights)}; give them for {sorted(ROLES)}")
    for role, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise UserError(f"the weight of {role} is {weight}; it must be finite and at least 0")
    kept = dict(weights)
    return lambda role, step: kept.get(role, kept["random"])


@dataclasses.dataclass(frozen=True)
class UnitSum:
    """Gradients are added, each with weight 1 (AttentiveNAS, AlphaNet)."""

    clip_member: float = 0.0
    """largest global norm of each subnet's gradient, 0 for no limit"""
    clip_sum: float = 0.0
    """largest global norm of the combined gradient, 0 for no limit"""

    def build(self) -> Combine:
        """The rule."""
        return combine.clipped_around(unit_sum(), self.clip_member, self.clip_sum)


@dataclasses.dataclass(frozen=True)
class ByRole:
    """Gradients are added with a weight for each role."""

    largest: float = 1.0
    """weight of the largest subnet"""
    smallest: float = 1.0
    """weight of the smallest subnet"""
    random: float = 1.0
    """weight of each random subnet, and of those in roles of the sampler's own"""
    clip_member: float = 0.0
    """largest global norm of each subnet's gradient before its weight, 0 for no limit"""
    clip_sum: float = 0.0
    """largest global norm of the combined gradient, 0 for no limit"""

    def build(self) -> Combine:
        """The rule."""
        weights = {"largest": self.largest, "smallest": self.smallest, "random": self.random}
        return combine.clipped_around(unit_sum(), self.clip_member, self.clip_sum, by_role(weights))
