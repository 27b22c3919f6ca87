"""A combination of gradients of one's own: all members have a say of the same size.

supernet train docs/examples/combination.py --out runs/equal
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import supernet_jax as sj
from supernet_jax.training.gradients.combine import Array, Combine, Tree

TINY = 1e-30  # a gradient of nothing has no direction and stays nothing


class Carry(NamedTuple):
    """What the fold over the members carries.

    Attributes:
        directions: sum of the members' gradients, each brought to length 1.
        lengths: sum of their lengths.
        members: how many there were.
    """

    directions: Tree
    lengths: Array
    members: Array


def equal_lengths() -> Combine:
    """The sum of the members' gradients, each brought to their mean length first."""

    def init(params: Tree) -> Carry:
        return Carry(optax.tree.zeros_like(params), jnp.zeros(()), jnp.zeros(()))

    def add(carry: Carry, gradients: Tree, role: str, step: Array) -> Carry:
        del role, step
        length = optax.tree.norm(gradients)
        direction = optax.tree.scale(1 / jnp.maximum(length, TINY), gradients)
        directions = optax.tree.add(carry.directions, direction)
        return Carry(directions, carry.lengths + length, carry.members + 1)

    def finish(carry: Carry) -> Tree:
        mean = carry.lengths / jnp.maximum(carry.members, 1)
        return jax.tree.map(lambda leaf: mean * leaf, carry.directions)

    return Combine(init, add, finish)


@dataclasses.dataclass(frozen=True)
class EqualLengths:
    """Gradients are added, each brought to the mean length of all first."""

    def build(self) -> Combine:
        """The rule."""
        return equal_lengths()


config = sj.Config(combine=EqualLengths())
