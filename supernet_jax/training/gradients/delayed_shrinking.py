"""The largest subnet alone at first, then the others at a growing rate (DepS)."""

import dataclasses

import jax
import jax.numpy as jnp

from supernet_jax.errors import UserError, require
from supernet_jax.training.gradients import combine, unit_sum
from supernet_jax.training.gradients.combine import Combine, Factor

Array = jax.Array


def delayed_shrinking(*, delay: int, ramp: int, floor: float = 0.0) -> Factor:
    """Trains the largest subnet first, then lets the others in at a growing learning rate.

    Delayed epsilon-shrinking (Annavajjala et al. 2024, arXiv:2407.06167): the largest alone until
    it is about half trained, then the subnets with an effective learning rate that is warmed up.
    Here the largest always has the factor 1, and all others have 0 before `delay`, then a line
    from `floor` to 1 over `ramp` steps. The shape of that line is ours. Members with the factor 0
    are still computed.

    Args:
        delay: the first step in which the others train, at least 0.
        ramp: steps until they have the factor 1; with 0 they have it at once.
        floor: their factor at `delay`, in [0, 1].

    Raises:
        UserError: a number is out of range.
    """
    if delay < 0 or ramp < 0 or not 0 <= floor <= 1:
        raise UserError(
            f"shrinking has delay={delay}, ramp={ramp}, floor={floor}; the first two must be at "
            "least 0 and the last in [0, 1]"
        )

    def factor(role: str, step: Array) -> Array | float:
        if role == "largest":
            return 1.0
        grown = jnp.minimum((step - delay) / ramp, 1.0) if ramp else 1.0
        return jnp.where(step < delay, 0.0, floor + (1 - floor) * grown)

    return factor


@dataclasses.dataclass(frozen=True)
class DelayedShrinking:
    """The largest subnet alone at first, then the others at a growing learning rate (DepS)."""

    delay: float = 0.5
    """share of the steps in which the largest trains alone; published: about one half"""
    ramp: float = 0.1
    """share of the steps in which the others' learning rate grows"""
    floor: float = 0.0
    """factor of the others' learning rate where the ramp begins, in [0, 1)"""
    clip_member: float = 0.0
    """largest global norm of each subnet's gradient before its factor, 0 for no limit"""
    clip_sum: float = 0.0
    """largest global norm of the combined gradient, 0 for no limit"""

    def build(self, *, steps: int) -> Combine:
        """The rule for a run of so many steps."""
        for name, share in (("delay", self.delay), ("ramp", self.ramp)):
            require(0 <= share < 1, f"combine.{name} is {share}, but must be in [0, 1)")
        factor = delayed_shrinking(
            delay=round(self.delay * steps), ramp=round(self.ramp * steps), floor=self.floor
        )
        return combine.clipped_around(unit_sum.unit_sum(), self.clip_member, self.clip_sum, factor)
