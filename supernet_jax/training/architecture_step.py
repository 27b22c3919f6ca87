"""How a sampler's architecture parameters learn in a step, by losses on a second batch."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from supernet_jax.elastic import strategies
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.strategies import Strategy
from supernet_jax.runtime import native, path_rules
from supernet_jax.tasks.task import Size
from supernet_jax.training.members import Given, Member, Members, trained
from supernet_jax.training.recipe import Metrics, Recipe, State
from supernet_jax.training.samplers import SamplerState


def learned(
    recipe: Recipe,
    mesh: jax.sharding.Mesh | None,
    where: Tree | None,
    state: State,
    given: Given,
    *,
    size: Size,
) -> tuple[SamplerState, Metrics]:
    """The sampler's state after its architecture parameters have learned, and their loss.

    Args:
        recipe: whose sampler learns.
        mesh: of the devices; None for one.
        where: shardings of the parameters; None for one device.
        state: before the step.
        given: of the step, with a second batch.
        size: of the inputs.
    """
    learn = recipe.sampler.learn
    assert learn is not None and learn.update is not None
    if given.second is None:
        raise ValueError("this sampler learns by a second batch; give it as Batch(..., second=...)")
    about = recipe, mesh, where, state
    first = Members(*about, given.inputs, given.targets, given.dropout_key)
    second = Members(*about, *given.second, given.dropout_key)
    key = jax.random.fold_in(given.arch_key, 2**31)
    score = SecondBatch(first, second, size)
    moved, loss = learn.update(state.sampler, key, state.step, score)
    return moved, {"loss/codes": loss}


def finite(tree: Tree) -> Array:
    """Whether all floats of a tree are finite."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.array(True), *(jnp.all(jnp.isfinite(x)) for x in floats)]))


class SecondBatch(NamedTuple):
    """What a sampler's architecture parameters learn by: a `samplers.CodeScore`.

    Attributes:
        first: members on the batch of the step.
        second: members on the second batch.
        size: of the inputs.
    """

    first: Members
    second: Members
    size: Size

    def __call__(self, code: Code, *, paths: Arch | None = None) -> Array:
        """The loss of a code on the second batch."""
        return self.second.mean_loss(self._member(code, paths))

    def ahead(self, code: Code, *, rate: float) -> Array:
        """The same after a step of gradient descent on the first."""
        member, params = self._member(code, None), self.first.state.params
        with native.aside():  # the kernels have no second derivatives
            _, gradients = self.first.gradient_of_part(params, member)
        moved = jax.tree.map(
            lambda p, g: p - rate * g, trained(self.first.recipe, params), gradients
        )
        params = path_rules.laid_over(params, moved)
        state = dataclasses.replace(self.second.state, params=params)
        return self.second._replace(state=state).mean_loss(member)

    def _member(self, code: Code, paths: Arch | None) -> Member:
        recipe = self.first.recipe
        own = recipe.space.at_size(code, recipe.space.sizes.index(self.size))
        strategy: Strategy = mixed
        if paths is not None:
            strategy = functools.partial(mixed, paths=paths)
        elif recipe.strategy is strategies.masked:
            strategy = strategies.masked
        return Member(strategy, own, "codes", self.size, None)
