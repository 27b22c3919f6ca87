"""Ensembles of another space's subnets, as a part of a configuration."""

import dataclasses
from typing import Any, Literal

from supernet_jax.elastic import ensembles
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.spaces.checks import built
from supernet_jax.spaces.mobilenet import Digits
from supernet_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Ensembles:
    """Ensembles of a space's subnets behind a trunk that they share; where it ends is searched."""

    space: Any = dataclasses.field(default_factory=Digits)
    """the space of which members are subnets: its own part of a configuration"""
    members: int = 2
    """subnets in an ensemble, whose outputs are averaged; more are better, and cost more"""
    splits: tuple[int, ...] = ()
    """how many blocks members may share; if not given, from the first one to all, which is one
    subnet alone"""
    weights: Literal["shared", "own"] = "shared"
    """behind the trunk: all members have the weights of one supernet, or each has its own"""

    def build(self, *, task: Task) -> Space:
        """The space for a task."""
        require(
            self.weights in ("shared", "own"),
            f'space.weights is {self.weights!r}, must be "shared" or "own"',
        )
        return ensembles.ensemble(
            built(self.space, task),
            members=self.members,
            splits=self.splits,
            weights=self.weights,
        )
