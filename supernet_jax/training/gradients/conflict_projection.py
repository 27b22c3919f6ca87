"""The largest's gradient without what opposes the others' (NASViT)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError, require
from supernet_jax.training.gradients import combine
from supernet_jax.training.gradients.combine import Combine

Tree = Any  # nested dicts of arrays
Array = jax.Array


class _Sides(NamedTuple):
    """Gradient of the largest, sum of all others, and the step."""

    largest: Tree
    others: Tree
    step: Array


def conflict_projection(*, start: int = 0, limit: float = 2.0, by_array: bool = True) -> Combine:
    """Takes out of the largest's gradient what opposes the sum of all others, and adds both.

    NASViT (Gong et al., ICLR 2022): with `g` the gradient of the largest and `s` the summed
    gradients of the others, where `<g, s> < 0` it trains with `g - <g, s> / |s|**2 s + s`, so that
    the largest's part has no component against the others; `s` itself is never changed. Elsewhere,
    and before `start`, with `g + s`. Its published code decides for each parameter array by itself,
    bounds the coefficient `-<g, s> / |s|**2` by 2 and begins after 100 of its epochs; those are
    the defaults here, but for `start`, which is a number of steps. That code adds 1e-6 to `|s|**2`;
    here an array whose `s` is zero is left alone instead, so small gradients are projected fully.

    Conflict projection between all pairs of tasks (Yu et al. 2020, arXiv:2001.06782) is another
    method: it changes both gradients of a pair, and its result depends on their order.

    Args:
        start: the first step with projection.
        limit: upper bound of the coefficient, above 0; infinity for none.
        by_array: whether each array is projected by itself, or the gradient as one long vector.

    Raises:
        UserError: a number is out of range.
    """
    if start < 0 or not limit > 0:
        raise UserError(
            f"projection has start={start}, limit={limit}; they must be at least 0 and above 0"
        )

    def init(params: Tree) -> _Sides:
        zero = optax.tree.zeros_like(params)
        return _Sides(zero, optax.tree.zeros_like(params), jnp.int32(0))

    def add(carry: _Sides, gradients: Tree, role: str, step: Array) -> _Sides:
        step = jnp.asarray(step, jnp.int32)
        if role == "largest":
            return _Sides(optax.tree.add(carry.largest, gradients), carry.others, step)
        return _Sides(carry.largest, optax.tree.add(carry.others, gradients), step)

    def finish(carry: _Sides) -> Tree:
        largest, others, step = carry
        # no dot products: accelerators would round their factors to fewer bits
        dots, squares = (
            jax.tree.map(lambda a, b: jnp.sum(a * b), one, others) for one in (largest, others)
        )
        if not by_array:
            dots, squares = combine.sum_of_leaves(dots), combine.sum_of_leaves(squares)

        def one(g: Array, s: Array, dot: Array, square: Array) -> Array:
            opposed = jnp.where(square > 0, -dot / jnp.where(square > 0, square, 1), 0)
            coefficient = jnp.where(step < start, 0, jnp.clip(opposed, 0, limit))
            return g + s + coefficient.astype(s.dtype) * s

        return jax.tree.map(one, largest, others, dots, squares)

    return Combine(init, add, finish)


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
        rule = conflict_projection(
            start=round(self.start * steps), limit=self.limit, by_array=self.by_array
        )
        return combine.clipped_around(rule, self.clip_member, self.clip_sum)
