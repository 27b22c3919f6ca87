"""A teacher of one's own: the supernet as it was some steps ago teaches itself.

supernet train docs/examples/teacher.py --out runs/snapshots
supernet train docs/examples/teacher.py --out runs/later --teacher.every 200
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import supernet_jax as sj
from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.space import Space
from supernet_jax.training.teachers.teacher import Array, Taught, Teacher, Tree


def snapshot(space: Space, *, every: int, dtype: Any) -> Teacher:
    """The largest subnet of a snapshot of the parameters, taken anew every so many steps.

    After Yang et al. 2019 (snapshot distillation, arXiv:1812.00123), who teach one network by its
    snapshot at the end of the learning rate's last cycle.

    Args:
        space: that is trained.
        every: steps between snapshots.
        dtype: of weights and activations.
    """
    arch = choices.largest(space.menu)
    size = space.size_of(arch)

    def init(params: Tree) -> Tree:
        return jax.tree.map(jnp.copy, params)  # a step gives the parameters themselves away

    def teach(memory: Tree, inputs: Array) -> Taught:
        how: Any = {"size": size, "dtype": dtype}
        return Taught(strategies.sliced(space, memory, arch, inputs, **how).logits, {})

    def update(memory: Tree, params: Tree, step: Array) -> Tree:
        return jax.tree.map(lambda m, p: jnp.where(step % every == 0, p, m), memory, params)

    return Teacher(init, teach, update, of_params=True)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The largest subnet of a past snapshot teaches all subnets."""

    every: int = 50
    """steps between snapshots; more let a teacher be older"""

    def build(self, *, space: Space, dtype: Any) -> Teacher:
        """The teacher for a space."""
        return snapshot(space, every=self.every, dtype=dtype)


config = sj.Config(teacher=Snapshot())
