"""The door of combinations: members' gradients into one, with weights and clipping around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError, require

Array = jax.Array
Tree = Any  # nested dicts of arrays
Factor = Callable[[str, Array], Array | float]  # (role, step) -> what a gradient is multiplied by


class Combine(NamedTuple):
    """How the members' gradients become one: a fold over the members of a step.

    Attributes:
        init: `params -> carry`.
        add: `(carry, gradients, role, step) -> carry`; `role` is static, `step` is traced.
        finish: `carry -> gradients`.
        is_sum: whether the carry is the sum of the gradients and nothing else, so that they can be
            added to it one block at a time.
    """

    init: Callable[[Tree], Any]
    add: Callable[[Any, Tree, str, Array], Any]
    finish: Callable[[Any], Tree]
    is_sum: bool = False


def scaled(inner: Combine, *, factor: Factor) -> Combine:
    """Multiplies each member's gradient by a number that its role and the step decide.

    Under plain SGD that is a learning rate for each subnet.

    Args:
        inner: what combines the scaled gradients.
        factor: `(role, step) -> number`; the role is static, the step an int32 scalar.
    """

    def add(carry: Any, gradients: Tree, role: str, step: Array) -> Any:
        number = jnp.asarray(factor(role, step), jnp.float32)
        return inner.add(carry, optax.tree.scale(number, gradients), role, step)

    return Combine(inner.init, add, inner.finish)


def clipped(inner: Combine, *, member: float | None = None, total: float | None = None) -> Combine:
    """Bounds the global norm of each member's gradient, of the combined one, or of both.

    Pascanu et al. 2013 (arXiv:1211.5063), algorithm 1: a longer gradient is scaled to the bound.
    AlphaNet clips elements of the sum instead; that is the optimiser's `clip_value`.

    Args:
        inner: what combines the gradients.
        member: bound of each member's norm, above 0, or None.
        total: bound of the combined norm, above 0, or None.

    Raises:
        UserError: a bound is not above 0.
    """
    for name, bound in (("member", member), ("total", total)):
        if bound is not None and not bound > 0:
            raise UserError(f"the bound of the {name} gradient's norm is {bound}; it must exceed 0")

    def add(carry: Any, gradients: Tree, role: str, step: Array) -> Any:
        return inner.add(carry, _shortened(gradients, member), role, step)

    def finish(carry: Any) -> Tree:
        return _shortened(inner.finish(carry), total)

    return Combine(inner.init, add, finish, is_sum=inner.is_sum and member is None)


def _shortened(gradients: Tree, bound: float | None) -> Tree:
    """The same direction, no longer than the bound."""
    if bound is None:
        return gradients
    # a quotient of 1 leaves a short gradient as it is, to the bit
    return optax.tree.scale(bound / jnp.maximum(optax.tree.norm(gradients), bound), gradients)


def sum_of_leaves(tree: Tree) -> Tree:
    """The sum of all leaves, at each of them."""
    total = sum(jax.tree.leaves(tree))
    return jax.tree.map(lambda _: total, tree)


def clipped_around(
    rule: Combine, member: float, total: float, factor: Factor | None = None
) -> Combine:
    """Members are clipped, then scaled, then combined; then the whole is clipped."""
    for name, bound in (("clip-member", member), ("clip-sum", total)):
        require(bound >= 0, f"combine.{name} is {bound}, but must be at least 0")
    rule = rule if factor is None else scaled(rule, factor=factor)
    return clipped(rule, member=member or None, total=total or None)
