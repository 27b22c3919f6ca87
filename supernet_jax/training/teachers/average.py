"""An average of the supernet's past parameters teaches (mean teacher).

Shape letters: `B` examples of a step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.training.teachers.teacher import Array, Taught, Teacher, Tree


def average(
    space: Space,
    *,
    decay: float,
    features: tuple[str, ...] = (),
    dtype: Any = jnp.float32,
) -> Teacher:
    """The largest subnet of an exponential average of past parameters (mean teacher).

    Tarvainen & Valpola 2017 (arXiv:1703.01780), section 2: after step t the memory becomes
    `a * memory + (1 - a) * parameters`. As in their code, `a = min(decay, 1 - 1 / (t + 1))`: the
    plain mean of all parameters so far, those at the start too, until `decay` forgets more slowly.
    As theirs it normalises by the statistics of the batch; it has no dropout. Ours: it teaches
    subnets, where theirs has one network and its own augmentation of each example.

    Args:
        space: that is trained.
        decay: in [0, 1).
        features: those of the recipe.
        dtype: of weights and activations.

    Raises:
        UserError: the decay is out of range.
    """
    require(
        0 <= decay < 1,
        f"teacher.decay is {decay}, but must be in [0, 1): 0.999 averages over about 1000 steps",
    )
    arch = choices.largest(space.menu)

    def teach(memory: Tree, inputs: Array) -> Taught:
        how: Any = {"size": space.size_of(arch), "features": features, "dtype": dtype}
        output = strategies.sliced(space, memory, arch, inputs, **how)
        return Taught(output.logits, output.features)

    def update(memory: Tree, params: Tree, step: Array) -> Tree:
        kept = jnp.minimum(decay, 1 - 1 / (step.astype(jnp.float32) + 1))
        return jax.tree.map(lambda m, p: kept * m + (1 - kept) * p, memory, params)

    return Teacher(_copied, teach, update, of_params=True)


@jax.jit
def _copied(params: Tree) -> Tree:
    """Arrays of their own: a step gives those of the state away."""
    return jax.tree.map(jnp.copy, params)


@dataclasses.dataclass(frozen=True)
class Average:
    """The largest subnet of an average of past parameters teaches all (mean teacher)."""

    decay: float = 0.999
    """share of the average that stays in a step, in [0, 1); more averages over more steps"""

    def build(self, *, space: Space, features: tuple[str, ...], dtype: Any) -> Teacher:
        """The teacher for a space."""
        return average(space, decay=self.decay, features=features, dtype=dtype)
